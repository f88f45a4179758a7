"""Resources as messages, in each way of showing them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from configsvc_client.evaluation import Flag
from configsvc_client.v1 import config_pb2, flag_pb2
from google.protobuf.json_format import MessageToDict, ParseDict

from configsvc.domain import flags
from configsvc.domain.configs import Config, EffectiveConfig, config_ref
from configsvc.domain.instances import HEALTHY, instance_ref
from configsvc.domain.records import Action, Change, JsonObject, Ref, etag_of
from configsvc.rpc import convert
from configsvc.rpc.convert.message_budget import Detail

AT = datetime(2025, 1, 1, tzinfo=UTC)
REF = config_ref("production", "billing", "limits/a")
DEFINITION = {
    "name": "checkout",
    "environment": "production",
    "enabled": True,
    "value_type": "object",
    "variants": [{"name": "old", "value": {"a": [1, "x"]}}, {"name": "new", "value": {"b": None}}],
    "default_variant": "old",
    "on_variant": "new",
    "targeted_users": ["ann"],
    "rules": [
        {
            "name": "pilot",
            "conditions": [
                {"attribute": "country", "operator": "in", "values": ["de", "fr"]},
                {"attribute": "age", "operator": "greater_than", "values": [17.5], "negate": True},
            ],
            "variant": "new",
        },
        {
            "conditions": [{"attribute": "plan", "operator": "equals", "values": [True]}],
            "split": [{"variant": "old", "weight": 1}, {"variant": "new", "weight": 3}],
        },
    ],
    "tags": ["shop"],
    "salt": "s",
}
# What the service adds to a definition.
OUTPUTS = ("version", "etag", "revision", "created_at", "updated_at", "updated_by")


def change(ref: Ref, before: JsonObject | None, after: JsonObject | None) -> Change:
    """Version 8, at revision 301, of a resource that was at revision 300 before."""
    action = Action.DELETE if after is None else Action.CREATE if before is None else Action.UPDATE
    return Change(
        revision=301,
        ordinal=0,
        ref=ref,
        action=action,
        version=8,
        before=before,
        after=after,
        before_revision=300 if before is not None else 0,
        created_at=AT,
        actor="ann",
        reason="why",
        request_id="",
        at=AT + timedelta(days=1),
        history="h",
    )


def definition_of(flag: flag_pb2.Flag) -> flag_pb2.Flag:
    kept = flag_pb2.Flag()
    kept.CopyFrom(flag)
    for field in OUTPUTS:
        kept.ClearField(field)  # type: ignore[arg-type]
    return kept


def test_flag_with_rules_is_the_same_in_each_way_of_showing_it() -> None:
    request = ParseDict(DEFINITION, flag_pb2.CreateFlagRequest())
    sent = ParseDict(DEFINITION, flag_pb2.Flag())
    body = flags.body_of(Flag.from_json(convert.definition(request)))
    ref = flags.flag_ref("production", "checkout")
    created, deleted = change(ref, None, body), change(ref, body, None)
    shown = {
        "flag": convert.flag(created.written),
        "version, after": convert.flag_version(created).after,
        "version, before": convert.flag_version(deleted).before,
        "watch": convert.flag_change(created).change.flag,
        "watch, previous": convert.flag_change(deleted).change.previous,
    }
    for way, flag in shown.items():
        assert definition_of(flag) == sent, way
    audited = convert.audit(created).after
    assert MessageToDict(audited)["rules"][0]["conditions"][0]["values"] == ["de", "fr"]
    assert MessageToDict(convert.audit(deleted).before)["variants"] == DEFINITION["variants"]


def test_update_of_a_flag_reads_the_fields_that_it_names() -> None:
    request = ParseDict(DEFINITION, flag_pb2.UpdateFlagRequest())
    rules = convert.members(request, {"rules", "tags"})
    assert set(rules) == {"rules", "tags"}
    assert [one["values"] for one in rules["rules"][0]["conditions"]] == [["de", "fr"], [17.5]]


def test_previous_state_has_the_version_revision_and_etag_that_it_had() -> None:
    etag = etag_of(7, 300, "h")
    config = convert.config_change(change(REF, Config(1, "d").body, Config(2).body)).change
    assert (config.previous.version, config.previous.revision, config.previous.etag) == (7, 300, etag)
    assert (config.previous.value.number_value, config.previous.description) == (1, "d")
    assert (config.config.version, config.config.revision, config.config.etag) == (8, 301, etag_of(8, 301, "h"))

    body = flags.body_of(Flag.from_json(DEFINITION))
    update = change(flags.flag_ref("production", "checkout"), body, {**body, "enabled": False})
    for previous in (convert.flag_change(update).change.previous, convert.flag_version(update).before):
        assert (previous.version, previous.revision, previous.etag) == (7, 300, etag)
        assert previous.enabled
    assert not convert.flag_change(update).change.flag.enabled
    assert list(convert.flag_version(update).changed_fields) == ["enabled"]

    instance = convert.instance_change(change(instance_ref("shop", "a"), registered(1), registered(2)), Detail.FULL)
    previous_instance = instance.change.previous
    assert (previous_instance.revision, previous_instance.etag, previous_instance.weight) == (300, etag, 1)


def registered(weight: int) -> dict[str, Any]:
    return {
        "service_url": "http://h:1", "health_check_url": "", "status": HEALTHY, "metadata": {}, "weight": weight,
        "zone": "", "version": "", "lease_ttl_seconds": 30, "owner": "r", "generation": 1, "incarnation": 1,
    }  # fmt: skip


def test_deleted_configuration_is_shown_by_its_identity_with_its_last_state() -> None:
    deleted = convert.config_change(change(REF, Config(1, "d").body, None)).change
    expected = config_pb2.Config(
        key="limits/a", environment="production", service_name="billing", version=8, revision=301
    )
    assert (deleted.type, deleted.config) == ("DELETE", expected)
    assert (deleted.previous.value.number_value, deleted.previous_omitted) == (1, False)


def test_less_detail_leaves_out_the_state_before_and_then_the_state_itself() -> None:
    update = change(REF, Config(1, "d").body, Config(2, "e").body)
    shown = convert.config_change(update, Detail.WITHOUT_BEFORE).change
    assert (shown.HasField("previous"), shown.previous_omitted, shown.config.value.number_value) == (False, True, 2)
    config = convert.config(update.written, Detail.IDENTITY)
    assert (config.HasField("value"), config.description, config.value_omitted) == (False, "", True)
    assert (config.key, config.etag, config.updated_by) == ("limits/a", update.written.etag, "ann")
    version = convert.config_version(update, Detail.IDENTITY)
    assert (version.before_omitted, version.after_omitted) == (True, True)


def test_configuration_stored_without_a_description_is_shown() -> None:
    update = change(REF, {"value": 1}, {"value": 2})
    assert convert.config(update.written).description == ""
    assert convert.config_version(update).after.number_value == 2
    assert convert.config_change(update).change.previous.value.number_value == 1


def test_version_whose_change_was_compacted_says_that_the_state_before_is_missing() -> None:
    lost = replace(change(REF, None, Config(2).body), action=Action.UPDATE)
    assert convert.config_version(lost).before_omitted
    assert not convert.config_version(change(REF, None, Config(2).body)).before_omitted


def test_versions_and_audit_rows_tell_who_wrote_them_when_and_why() -> None:
    body = flags.body_of(Flag.from_json(DEFINITION))
    update = change(flags.flag_ref("production", "checkout"), body, {**body, "enabled": False})
    rows = (
        convert.flag_version(update),
        convert.config_version(change(REF, Config(1).body, Config(2).body)),
        convert.audit(update),
    )
    for row in rows:
        assert (row.version, row.action, row.actor, row.reason, row.revision) == (8, "UPDATE", "ann", "why", 301)
        assert row.at == convert.timestamp(AT + timedelta(days=1))


def test_configuration_has_each_of_its_members() -> None:
    record = change(REF, None, Config({"a": [1]}, "d").body).written
    assert convert.config(record) == config_pb2.Config(
        key="limits/a",
        value=convert.value_of({"a": [1]}),
        environment="production",
        service_name="billing",
        version=8,
        etag=record.etag,
        revision=301,
        description="d",
        created_at=convert.timestamp(AT),
        updated_at=convert.timestamp(AT + timedelta(days=1)),
        updated_by="ann",
    )
    assert convert.effective(EffectiveConfig(record, True)) == config_pb2.EffectiveConfig(
        key="limits/a",
        value=convert.value_of({"a": [1]}),
        source="service",
        overrides_shared=True,
        version=8,
        etag=record.etag,
        revision=301,
    )
