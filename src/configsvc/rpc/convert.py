"""Between messages and the domain's values."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2, registry_pb2
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from configsvc.app.batches import Applied
from configsvc.app.outcomes import FailedItem, Outcome
from configsvc.domain.configs import Effective
from configsvc.domain.instances import CheckResult, Instance, Registration
from configsvc.domain.json_values import LARGEST_EXACT_INTEGER, MISSING, Absent, Difference, Json, changed_members
from configsvc.domain.records import Change, JsonObject, Record, etag_of
from configsvc.domain.sizes import size_problem
from configsvc.errors import InvalidInput
from configsvc.rpc.room import Detail

# Fields of a CreateFlagRequest that are not part of the definition.
NOT_DEFINITION = frozenset({"reason", "request_id"})


def json_of(value: Value) -> Json:
    """JSON from a Value. Numbers are doubles there; a whole one that doubles carry exactly is an integer here."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        # -0.0 stays what it is: an integer has no sign for it.
        whole = number.is_integer() and abs(number) <= LARGEST_EXACT_INTEGER and (number or str(number)[0] != "-")
        return int(number) if whole else number
    if kind == "struct_value":
        return {name: json_of(item) for name, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [json_of(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def json_or_missing(message: Any, path: str = "value") -> Json:
    """The JSON of the field `value`; MISSING where it is not given. Null is given.

    Raises:
        InvalidInput: a list or an object is too large to be kept. Hundreds of thousands of items take the loop a second,
            in which nobody else is answered: so that is known before they are looked at.
    """
    kind = message.value.WhichOneof("kind") if message.HasField("value") else None
    if kind is None:
        return MISSING
    if kind in ("list_value", "struct_value") and (problem := size_problem(message.value.ByteSize())):
        raise InvalidInput.of(path, problem)
    return json_of(message.value)


def value_of(json: Json, into: Value | None = None) -> Value:
    """A Value from JSON."""
    value = Value() if into is None else into
    if json is None:
        value.null_value = 0  # type: ignore[assignment]
    elif isinstance(json, bool):
        value.bool_value = json
    elif isinstance(json, int | float):
        value.number_value = json
    elif isinstance(json, str):
        value.string_value = json
    elif isinstance(json, Mapping):
        value.struct_value.SetInParent()
        for name, item in json.items():
            value_of(item, value.struct_value.fields[name])
    else:
        value.list_value.SetInParent()
        for item in json:
            value_of(item, value.list_value.values.add())
    return value


def struct_of(json: JsonObject) -> Struct:
    """A Struct from a JSON object."""
    return value_of(json).struct_value


def timestamp(at: datetime) -> Timestamp:
    """A Timestamp from an aware time."""
    message = Timestamp()
    message.FromDatetime(at.astimezone(UTC).replace(tzinfo=None))
    return message


def time_of(message: Any, field: str) -> datetime | None:
    """An aware time; None where the field is not set. Raises `InvalidInput` where it is no time."""
    if not message.HasField(field):
        return None
    try:
        found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput.of(field, "must be a time from the year 1 to 9999") from error
    return found


def optional(message: Any, field: str) -> Any:
    """The field, or None where it is not set."""
    return getattr(message, field) if message.HasField(field) else None


def config(record: Record, detail: Detail = Detail.WHOLE) -> config_pb2.Config:
    """A configuration."""
    whole = detail.has_after
    return config_pb2.Config(
        key=record.ref.key,
        value=value_of(record.body["value"]) if whole else None,
        environment=record.ref.environment,
        service_name=record.ref.service,
        version=record.version,
        etag=record.etag,
        revision=record.revision,
        description=record.body["description"] if whole else "",
        created_at=timestamp(record.created_at),
        updated_at=timestamp(record.updated_at),
        updated_by=record.updated_by,
        value_omitted=not whole,
    )


def effective(found: Effective, detail: Detail = Detail.WHOLE) -> config_pb2.EffectiveConfig:
    """A configuration as a service sees it."""
    record = found.record
    return config_pb2.EffectiveConfig(
        key=record.ref.key,
        value=value_of(record.body["value"]) if detail.has_after else None,
        source=found.source,
        overrides_shared=found.overrides_shared,
        version=record.version,
        etag=record.etag,
        revision=record.revision,
        value_omitted=not detail.has_after,
    )


def config_version(change: Change, detail: Detail = Detail.WHOLE) -> config_pb2.ConfigVersion:
    """One write in a configuration's history."""
    before = change.before if detail.has_before else None
    after = change.after if detail.has_after else None
    return config_pb2.ConfigVersion(
        version=change.version,
        action=change.action,
        before=value_of(before["value"]) if before is not None else None,
        after=value_of(after["value"]) if after is not None else None,
        actor=change.actor,
        reason=change.reason,
        at=timestamp(change.at),
        revision=change.revision,
        description=change.after["description"] if change.after is not None else "",
        before_omitted=before is not change.before or change.has_lost_before,
        after_omitted=after is not change.after,
        changed_fields=changed_fields(change),
    )


def config_change(change: Change, detail: Detail = Detail.WHOLE) -> config_pb2.WatchConfigsResponse:
    """A change as a watch tells it."""
    ref = change.ref
    message = config_pb2.ConfigChange(revision=change.revision, type="PUT" if change.record else "DELETE")
    identity: dict[str, Any] = {"key": ref.key, "environment": ref.environment, "service_name": ref.service}
    if change.record:
        message.config.CopyFrom(config(change.record, detail))
    else:
        message.config.CopyFrom(config_pb2.Config(**identity, version=change.version, revision=change.revision))
    message.previous_omitted = change.before is not None and not detail.has_before
    if change.before is not None and detail.has_before:
        message.previous.CopyFrom(
            config_pb2.Config(
                **identity,
                value=value_of(change.before["value"]),
                description=change.before["description"],
                version=change.version - 1,
                revision=change.before_revision,
                etag=etag_of(change.version - 1, change.before_revision, change.history),
                created_at=timestamp(change.created_at),
            )
        )
    return config_pb2.WatchConfigsResponse(change=message)


def difference(found: Difference, detail: Detail = Detail.WHOLE) -> config_pb2.ConfigDifference:
    """One difference; a side that has no value is not set."""
    has_before, has_after = not isinstance(found.before, Absent), not isinstance(found.after, Absent)
    return config_pb2.ConfigDifference(
        path=found.path,
        op=found.op,
        before=value_of(found.before) if has_before and detail.has_before else None,
        after=value_of(found.after) if has_after and detail.has_after else None,
        before_omitted=has_before and not detail.has_before,
        after_omitted=has_after and not detail.has_after,
    )


def definition(request: Any) -> dict[str, Any]:
    """A flag's definition as the evaluation package reads it."""
    return members(request, {field.name for field in request.DESCRIPTOR.fields} - NOT_DEFINITION)


def members(request: Any, named: Collection[str]) -> dict[str, Any]:
    """These fields as JSON, in the order of the message."""
    return {
        field.name: _plain(getattr(request, field.name), field)
        for field in request.DESCRIPTOR.fields
        if field.name in named
    }


def changed_fields(change: Change) -> tuple[str, ...]:
    """What a write changed of a resource that was there and is there."""
    return changed_members(change.before, change.after)


def changed_flag_fields(change: Change) -> tuple[str, ...]:
    """The same, of what a flag shows."""
    return tuple(name for name in changed_fields(change) if name in flag_pb2.Flag.DESCRIPTOR.fields_by_name)


def written(change: Change) -> Record:
    """What a write that removes nothing has left."""
    assert change.record is not None, "an update leaves a record"
    return change.record


def flag_message(ref_environment: str, body: JsonObject) -> flag_pb2.Flag:
    """A flag's definition as a message."""
    message = flag_pb2.Flag()
    _fill(message, body)
    message.environment = ref_environment
    return message


def flag(record: Record, detail: Detail = Detail.WHOLE) -> flag_pb2.Flag:
    """A flag."""
    message = flag_message(record.ref.environment, record.body if detail.has_after else {"name": record.ref.key})
    message.definition_omitted = not detail.has_after
    message.version = record.version
    message.etag = record.etag
    message.revision = record.revision
    message.created_at.CopyFrom(timestamp(record.created_at))
    message.updated_at.CopyFrom(timestamp(record.updated_at))
    message.updated_by = record.updated_by
    return message


def flag_version(change: Change, detail: Detail = Detail.WHOLE) -> flag_pb2.FlagVersion:
    """One write in a flag's history."""
    return flag_pb2.FlagVersion(
        version=change.version,
        action=change.action,
        before=_previous_flag(change, detail),
        after=flag(change.record, detail) if change.record else None,
        actor=change.actor,
        reason=change.reason,
        at=timestamp(change.at),
        revision=change.revision,
        before_omitted=change.has_lost_before or (change.before is not None and not detail.has_before),
        changed_fields=changed_flag_fields(change),
    )


def flag_change(change: Change, detail: Detail = Detail.WHOLE) -> flag_pb2.WatchFlagsResponse:
    """A change as a watch tells it."""
    gone = flag_pb2.Flag(
        name=change.ref.key, environment=change.ref.environment, version=change.version, revision=change.revision
    )
    message = flag_pb2.FlagChange(
        revision=change.revision,
        type="PUT" if change.record else "DELETE",
        flag=flag(change.record, detail) if change.record else gone,
        previous=_previous_flag(change, detail),
        previous_omitted=change.before is not None and not detail.has_before,
    )
    return flag_pb2.WatchFlagsResponse(change=message)


def evaluation(outcome: Outcome, user_id: str, detail: Detail = Detail.WHOLE) -> flag_pb2.Evaluation:
    """What a flag is for a context, or why that can't be said."""
    if isinstance(outcome, FailedItem):
        return flag_pb2.Evaluation(
            flag_name=outcome.flag_name,
            user_id=outcome.user_id,
            reason="ERROR",
            error=flag_pb2.EvaluationError(code=outcome.code, message=outcome.message),
        )
    message = flag_pb2.Evaluation(
        flag_name=outcome.flag_name,
        user_id=user_id,
        enabled=outcome.enabled,
        value=value_of(outcome.value),
        variant=outcome.variant,
        reason=outcome.reason,
        version=outcome.version,
    )
    if outcome.error_code is not None:
        message.error.code = outcome.error_code
        message.error.message = outcome.error_message
    message.explanation_omitted = outcome.explanation is not None and not detail.has_before
    if outcome.explanation is not None and detail.has_before:
        message.explanation.CopyFrom(struct_of(outcome.explanation.to_json()))
    return message


def registration(request: registry_pb2.RegisterInstanceRequest) -> Registration:
    """What an instance says of itself."""
    return Registration(
        service_name=request.service_name,
        service_url=request.service_url,
        instance_id=request.instance_id,
        health_check_url=request.health_check_url,
        metadata=dict(sorted(request.metadata.items())),
        weight=request.weight,
        zone=request.zone,
        version=request.version,
        lease_ttl_seconds=request.lease_ttl_seconds,
    )


def instance(found: Instance) -> registry_pb2.Instance:
    """An instance."""
    return registry_pb2.Instance(
        service_name=found.service_name,
        instance_id=found.instance_id,
        service_url=found.service_url,
        health_check_url=found.health_check_url,
        status=found.status,
        metadata=found.metadata,
        weight=found.weight,
        zone=found.zone,
        version=found.version,
        lease_ttl_seconds=found.lease_ttl_seconds,
        registered_at=timestamp(found.registered_at),
        last_heartbeat_at=timestamp(found.last_heartbeat_at),
        revision=found.revision,
        etag=found.etag,
        foreign=not found.owner,
    )


def check_result(result: CheckResult) -> registry_pb2.HealthCheckResult:
    """One look at one instance."""
    return registry_pb2.HealthCheckResult(
        instance_id=result.instance_id,
        passed=result.passed,
        status=result.status,
        latency_ms=round(result.latency_ms, 3),
        error=result.error,
        checked_at=timestamp(result.checked_at),
        skipped=result.skipped,
    )


def applied(found: Applied) -> change_pb2.AppliedChange:
    """What an operation of a batch did."""
    ref = found.ref
    return change_pb2.AppliedChange(
        kind=ref.kind,
        environment=ref.environment,
        service_name=ref.service,
        key=ref.key,
        action=found.action,
        version=found.version,
        etag=found.etag,
    )


def audit(change: Change, detail: Detail = Detail.WHOLE) -> change_pb2.Change:
    """One row of the audit trail."""
    before = change.before if detail.has_before else None
    after = change.after if detail.has_after else None
    return change_pb2.Change(
        revision=change.revision,
        kind=change.ref.kind,
        environment=change.ref.environment,
        service_name=change.ref.service,
        key=change.ref.key,
        action=change.action,
        version=change.version,
        before=struct_of(before) if before is not None else None,
        after=struct_of(after) if after is not None else None,
        actor=change.actor,
        reason=change.reason,
        request_id=change.request_id,
        at=timestamp(change.at),
        before_omitted=before is not change.before,
        after_omitted=after is not change.after,
        changed_fields=changed_fields(change),
    )


def _previous_flag(change: Change, detail: Detail) -> flag_pb2.Flag | None:
    if change.before is None or not detail.has_before:
        return None
    message = flag_message(change.ref.environment, change.before)
    message.version = change.version - 1
    message.revision = change.before_revision
    message.etag = etag_of(change.version - 1, change.before_revision, change.history)
    return message


def _plain(value: Any, field: Any) -> Json:
    """A field's value as JSON, lists and messages included."""
    if isinstance(value, Value):
        return json_of(value)
    if isinstance(value, Message):
        return {inner.name: _plain(getattr(value, inner.name), inner) for inner in value.DESCRIPTOR.fields}
    if isinstance(value, str | bytes | bool | int | float):
        return value
    return [_plain(item, field) for item in value]


def _fill(message: Any, body: Mapping[str, Any]) -> None:
    """Sets the fields that the JSON names; what the message does not know is left out."""
    for name, json in body.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            continue
        is_value = field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"
        if is_value and field.has_presence:
            # One Value: what the field is decides, and not what its JSON looks like, which may be an array.
            value_of(json, getattr(message, name))
        elif not isinstance(json, list):
            setattr(message, name, json)
        elif field.message_type is None:
            getattr(message, name).extend(json)
        else:
            for item in json:
                inner = getattr(message, name).add()
                if is_value:
                    value_of(item, inner)
                else:
                    _fill(inner, item)
