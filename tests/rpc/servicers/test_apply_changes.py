"""Batches of configurations and flags: all or none, in one revision. An error names the operation that it is about."""

from itertools import count
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    flag_pb2_grpc,
)
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.messages import put
from tests.rpc.refusals import refused
from tests.rpc.response_stream import ResponseStream

Code = grpc.StatusCode
Json = dict[str, Any]


def needs(name: str, *variants: str) -> Json:
    return {"prerequisites": [{"flag_name": name, "variants": [*variants]}]}


def variants(*names: str) -> Json:
    listed = [{"name": name, "value": name} for name in names]
    return {"value_type": "string", "variants": listed, "default_variant": names[0], "on_variant": names[0]}


def request(environment: str, *operations: Json, **more: Any) -> change_pb2.ApplyChangesRequest:
    return ParseDict(
        {"environment": environment, "operations": [*operations], **more}, change_pb2.ApplyChangesRequest()
    )


def apply(changes: Any, environment: str, *operations: Json, **more: Any) -> Any:
    return changes.ApplyChanges(request(environment, *operations, **more), timeout=20)


def flag(flags: Any, environment: str, name: str) -> Any:
    return flags.GetFlag(flag_pb2.GetFlagRequest(environment=environment, name=name)).flag


def test_configurations_and_flags_are_written_in_one_revision(
    changes: change_pb2_grpc.ChangeServiceStub,
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    environment: str,
) -> None:
    old = put(configs, environment, "old", 1).config
    flags.CreateFlag(flag_pb2.CreateFlagRequest(name="gone", environment=environment))
    other = f"{environment}-2"
    answer = apply(
        changes,
        environment,
        {"create_config": {"key": "new", "value": {"a": [1]}, "service_name": "svc"}},
        {"update_config": {"key": "old", "value": 2, "etag": old.etag}},
        {"create_flag": {"name": "f", "enabled": True, "tags": ["t"]}},
        {"create_flag": {"name": "f", "environment": other}},
        {"delete_flag": {"name": "gone"}},
        reason="together",
    )
    results = [(r.kind, r.environment, r.service_name, r.key, r.action, r.version) for r in answer.results]
    assert results == [
        ("config", environment, "svc", "new", "CREATE", 1),
        ("config", environment, "", "old", "UPDATE", 2),
        ("flag", environment, "", "f", "CREATE", 1),
        ("flag", other, "", "f", "CREATE", 1),
        ("flag", environment, "", "gone", "DELETE", 2),
    ]
    made = flag(flags, environment, "f")
    assert (made.revision, made.etag, [*made.tags]) == (answer.revision, answer.results[2].etag, ["t"])
    found = changes.ListChanges(change_pb2.ListChangesRequest(after_revision=answer.revision - 1))
    assert [(c.revision, c.reason) for c in found.changes] == [(answer.revision, "together")] * 5


def test_flags_whose_prerequisites_depend_on_each_other_are_written_together(
    changes: change_pb2_grpc.ChangeServiceStub, flags: flag_pb2_grpc.FlagServiceStub, environment: str
) -> None:
    apply(changes, environment, {"create_flag": {"name": "a", **variants("x")}}, {"create_flag": {"name": "b"}})
    # Each operation alone would be refused: a has no variant y, and c does not exist.
    apply(
        changes,
        environment,
        {"update_flag": {"name": "b", **needs("a", "y"), "enabled": True}},
        {"update_flag": {"name": "a", **variants("x", "y"), **needs("c", "on")}},
        {"create_flag": {"name": "c"}},
    )
    assert flag(flags, environment, "b").prerequisites[0].variants == ["y"]
    # A prerequisite can only be deleted together with what refers to it.
    still = refused(lambda: apply(changes, environment, {"delete_flag": {"name": "c"}}))
    assert (still.code, still.info.reason) == (Code.FAILED_PRECONDITION, "FLAG_IS_PREREQUISITE")
    assert still.info.metadata["operation"] == "operations[0]"
    apply(
        changes,
        environment,
        {"delete_flag": {"name": "c"}},
        # The mask must name a list that is to be cleared: gRPC does not send an empty list.
        {"update_flag": {"name": "a", "update_mask": "prerequisites,description", "description": "needs none"}},
    )
    cycle = refused(
        lambda: apply(
            changes,
            environment,
            {"create_flag": {"name": "d"}},
            {"update_flag": {"name": "a", **needs("b", "on")}},
        )
    )
    assert (cycle.code, cycle.info.reason) == (Code.INVALID_ARGUMENT, "PREREQUISITE_CYCLE")
    assert cycle.fields == ["operations[1].update_flag.prerequisites"]
    missing = refused(lambda: flag(flags, environment, "d"))
    assert missing.code == Code.NOT_FOUND


def test_every_invalid_field_is_named_by_its_whole_path(
    changes: change_pb2_grpc.ChangeServiceStub, environment: str
) -> None:
    found = refused(
        lambda: apply(
            changes,
            environment,
            {"create_config": {"key": "", "value": 1}},
            {"create_config": {"key": "k"}},
            {"create_flag": {"name": "f", "rollout_percentage": 101, **needs("", "on")}},
            {"update_flag": {"name": "evaluate", "environment": "no good", "enabled": True}},
            {"delete_config": {"key": "k"}},
        )
    )
    assert found.code == Code.INVALID_ARGUMENT
    assert {
        "operations[0].create_config.key",
        "operations[1].create_config.value",
        "operations[2].create_flag.rollout_percentage",
        "operations[3].update_flag.name",
        "operations[3].update_flag.environment",
        "operations[4].delete_config",
    } <= set(found.fields)


@pytest.mark.parametrize(
    ("operations", "field"),
    [
        ([], "operations"),
        ([{}], "operations[0]"),
        ([{"delete_flag": {"name": "f", "reason": "r"}}], "operations[0].delete_flag.reason"),
        ([{"create_flag": {"name": "f", "request_id": "r"}}], "operations[0].create_flag.request_id"),
        ([{"create_flag": {"name": "e"}}, {"update_flag": {"name": "f"}}], "operations[1].update_flag.enabled"),
        ([{"update_config": {"key": "k"}}], "operations[0].update_config.value"),
        ([{"update_flag": {"name": "f", "update_mask": "colour"}}], "operations[0].update_flag.update_mask"),
        ([{"delete_flag": {"name": "f", "etag": ""}}], "operations[0].delete_flag.etag"),
        ([{"create_flag": {"name": f"f{n}"}} for n in range(1_001)], "operations"),
    ],
)
def test_operation_without_an_effect_is_refused(
    changes: change_pb2_grpc.ChangeServiceStub, environment: str, operations: list[Json], field: str
) -> None:
    found = refused(lambda: apply(changes, environment, *operations))
    assert (found.code, found.fields) == (Code.INVALID_ARGUMENT, [field])


def test_update_writes_only_the_fields_that_it_names(
    changes: change_pb2_grpc.ChangeServiceStub,
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    environment: str,
) -> None:
    put(configs, environment, "k", 1, description="kept")
    flags.CreateFlag(
        flag_pb2.CreateFlagRequest(
            name="f", environment=environment, enabled=True, tags=["t"], targeted_users=["u"], rollout_percentage=50
        )
    )
    apply(
        changes,
        environment,
        {"update_config": {"key": "k", "value": 2}},
        {"update_flag": {"name": "f", "enabled": False, "rollout_percentage": 0}},
    )
    found = configs.GetConfig(config_pb2.GetConfigRequest(environment=environment, key="k")).config
    assert (found.value.number_value, found.description) == (2, "kept")
    now = flag(flags, environment, "f")
    assert (now.enabled, now.rollout_percentage, [*now.tags], [*now.targeted_users]) == (False, 0, ["t"], ["u"])


def test_precondition_headers_are_refused(changes: change_pb2_grpc.ChangeServiceStub, environment: str) -> None:
    asked = request(environment, {"create_flag": {"name": "f"}})
    found = refused(lambda: changes.ApplyChanges(asked, metadata=(("if-match", '"1-1"'),)))
    assert (found.code, found.fields) == (Code.INVALID_ARGUMENT, ["If-Match"])


def test_each_operation_has_its_own_precondition(
    changes: change_pb2_grpc.ChangeServiceStub, configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    stale = put(configs, environment, "k", 1).config.etag
    put(configs, environment, "k", 2)
    first = {"create_flag": {"name": "f"}}
    cases: list[tuple[Json, Code]] = [
        ({"update_config": {"key": "k", "value": 3, "etag": stale}}, Code.ABORTED),
        ({"delete_config": {"key": "k", "etag": stale}}, Code.ABORTED),
        ({"create_config": {"key": "k", "value": 3}}, Code.ALREADY_EXISTS),
        ({"update_config": {"key": "missing", "value": 3}}, Code.NOT_FOUND),
        ({"update_flag": {"name": "missing", "enabled": True}}, Code.NOT_FOUND),
        ({"delete_flag": {"name": "missing"}}, Code.NOT_FOUND),
    ]
    for operation, code in cases:
        found = refused(lambda operation=operation: apply(changes, environment, first, operation))  # type: ignore[misc]
        assert (found.code, found.info.metadata["operation"]) == (code, "operations[1]"), operation
        assert found.message.startswith("operations[1]: ")
    answer = apply(changes, environment, first, {"update_config": {"key": "new", "value": 1, "allow_missing": True}})
    assert [result.action for result in answer.results] == ["CREATE", "CREATE"]


@pytest.mark.parametrize("validate_only", [False, True])
def test_resource_that_is_too_large_is_refused_by_its_path(
    changes: change_pb2_grpc.ChangeServiceStub, environment: str, validate_only: bool
) -> None:
    users = [f"{number:060}" for number in range(80_000)]
    large = {"create_flag": {"name": "large", "targeted_users": users}}
    small = {"create_flag": {"name": "small"}}
    found = refused(lambda: apply(changes, environment, small, large, validate_only=validate_only))
    assert (found.code, found.info.reason) == (Code.INVALID_ARGUMENT, "RESOURCE_TOO_LARGE")
    assert found.fields == ["operations[1].create_flag.targeted_users"]


def test_retry_has_one_effect_and_a_reused_request_id_is_refused(
    changes: change_pb2_grpc.ChangeServiceStub, environment: str
) -> None:
    operations: list[Json] = [{"create_flag": {"name": "f"}}, {"create_config": {"key": "k", "value": 1}}]
    once = apply(changes, environment, *operations, request_id=environment)
    assert apply(changes, environment, *operations, request_id=environment) == once
    for other in (
        operations[:1],
        [*reversed(operations)],
        [operations[0], {"create_config": {"key": "k", "value": 2}}],
    ):
        found = refused(lambda other=other: apply(changes, environment, *other, request_id=environment))  # type: ignore[misc]
        assert found.info.reason == "REQUEST_ID_REUSED"


def test_validate_only_reports_the_outcome_and_writes_nothing(
    changes: change_pb2_grpc.ChangeServiceStub, flags: flag_pb2_grpc.FlagServiceStub, environment: str
) -> None:
    operations: list[Json] = [{"create_flag": {"name": "f"}}, {"create_config": {"key": "k", "value": 1}}]
    tried = apply(changes, environment, *operations, request_id=environment, validate_only=True)
    assert [(r.key, r.action, r.version, r.etag) for r in tried.results] == [
        ("f", "CREATE", 0, ""),
        ("k", "CREATE", 0, ""),
    ]
    assert refused(lambda: flag(flags, environment, "f")).code == Code.NOT_FOUND
    done = apply(changes, environment, *operations, request_id=environment)
    assert done.revision == tried.revision + 1
    found = refused(lambda: apply(changes, environment, *operations, validate_only=True))
    assert (found.code, found.info.metadata["operation"]) == (Code.ALREADY_EXISTS, "operations[0]")


def test_watch_marks_the_last_of_its_changes_in_the_batch(
    changes: change_pb2_grpc.ChangeServiceStub,
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    environment: str,
) -> None:
    with (
        ResponseStream(flags.WatchFlags(flag_pb2.WatchFlagsRequest(environment=environment))) as of_flags,
        ResponseStream(configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment))) as of_configs,
    ):
        of_flags.take_until("synced")
        of_configs.take_until("synced")
        apply(
            changes,
            environment,
            {"create_flag": {"name": "a"}},
            {"create_config": {"key": "k", "value": 1}},
            {"create_flag": {"name": "b"}},
        )
        changes_of_flags = [of_flags.take_until("change")[-1].change for _ in range(2)]
        assert [(c.flag.name, c.revision_complete) for c in changes_of_flags] == [("a", False), ("b", True)]
        assert of_configs.take_until("change")[-1].change.revision_complete


NAMES = ("a", "b", "c")
ENVIRONMENTS = count()
FLAG_OPERATIONS = st.one_of(
    st.builds(lambda n: {"create_flag": {"name": n}}, st.sampled_from(NAMES)),
    st.builds(lambda n, other: {"create_flag": {"name": n, **needs(other, "on")}}, *[st.sampled_from(NAMES)] * 2),
    st.builds(
        lambda n, other: {"update_flag": {"name": n, "enabled": True, **needs(other, "on")}},
        *[st.sampled_from(NAMES)] * 2,
    ),
    st.builds(lambda n: {"delete_flag": {"name": n}}, st.sampled_from(NAMES)),
)
CONFIG_OPERATIONS = st.one_of(
    st.builds(lambda k: {"create_config": {"key": k, "value": 1}}, st.sampled_from(NAMES)),
    st.builds(
        lambda k, m: {"update_config": {"key": k, "value": 2, "allow_missing": m}},
        st.sampled_from(NAMES),
        st.booleans(),
    ),
    st.builds(lambda k: {"delete_config": {"key": k}}, st.sampled_from(NAMES)),
)
BATCHES = st.lists(
    st.lists(st.one_of(FLAG_OPERATIONS, CONFIG_OPERATIONS), min_size=1, max_size=5), min_size=1, max_size=6
)
Model = dict[tuple[str, str], Json]


def predicted(model: Model, operations: list[Json]) -> Model | None:
    """The state after a batch, by a model without transactions; None if the batch is refused."""
    after = dict(model)
    touched = set()
    for operation in operations:
        ((verb, asked),) = operation.items()
        action, kind = verb.split("_")
        ref = (kind, asked.get("name") or asked["key"])
        if ref in touched:
            return None
        touched.add(ref)
        if (action == "create" and ref in model) or (
            action != "create" and ref not in model and not asked.get("allow_missing")
        ):
            return None
        if action == "delete":
            del after[ref]
        else:
            after[ref] = asked
    needed = {
        name: asked["prerequisites"][0]["flag_name"]
        for (kind, name), asked in after.items()
        if kind == "flag" and "prerequisites" in asked
    }
    for name in needed:
        seen = [name]
        while seen[-1] in needed:
            seen.append(needed[seen[-1]])
            if seen[-1] in seen[:-1] or ("flag", seen[-1]) not in after:
                return None
    return after


@settings(max_examples=60, deadline=None)
@given(batches=BATCHES)
def test_any_batch_is_applied_whole_or_not_at_all(grpc_channel: grpc.Channel, batches: list[list[Json]]) -> None:
    changes = change_pb2_grpc.ChangeServiceStub(grpc_channel)
    configs = config_pb2_grpc.ConfigServiceStub(grpc_channel)
    flags = flag_pb2_grpc.FlagServiceStub(grpc_channel)
    environment, model = f"p{next(ENVIRONMENTS)}", Model()
    for operations in batches:
        after = predicted(model, operations)
        try:
            apply(changes, environment, *operations)
            applied = True
        except grpc.RpcError:
            applied = False
        assert applied == (after is not None)
        model = after if after is not None else model
        found = {
            ("config", c.key)
            for c in configs.ListConfigs(config_pb2.ListConfigsRequest(environment=environment)).configs
        }
        found |= {("flag", f.name) for f in flags.ListFlags(flag_pb2.ListFlagsRequest(environment=environment)).flags}
        assert found == set(model)
