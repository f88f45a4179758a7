"""Flags and evaluations as messages."""

from configsvc_client.evaluation import Context
from configsvc_client.v1 import flag_pb2

from configsvc.app.flags.evaluation import FailedItem, Outcome
from configsvc.domain.records import Change, JsonObject, Record
from configsvc.rpc.convert.changes import changed_flag_fields
from configsvc.rpc.convert.members import fill
from configsvc.rpc.convert.message_budget import Detail
from configsvc.rpc.convert.values import json_of, struct_of, timestamp, value_of


def flag(record: Record, detail: Detail = Detail.FULL) -> flag_pb2.Flag:
    """A flag."""
    message = _contents(record, record.body if detail.includes_after else {"name": record.ref.key})
    message.definition_omitted = not detail.includes_after
    message.created_at.CopyFrom(timestamp(record.created_at))
    message.updated_at.CopyFrom(timestamp(record.updated_at))
    message.updated_by = record.updated_by
    return message


def flag_version(change: Change, detail: Detail = Detail.FULL) -> flag_pb2.FlagVersion:
    """One write in a flag's history."""
    return flag_pb2.FlagVersion(
        version=change.version,
        action=change.action,
        before=_previous(change, detail),
        after=flag(change.record, detail) if change.record else None,
        actor=change.actor,
        reason=change.reason,
        at=timestamp(change.at),
        revision=change.revision,
        before_omitted=change.has_lost_before or (change.before is not None and not detail.includes_before),
        changed_fields=changed_flag_fields(change),
    )


def flag_change(change: Change, detail: Detail = Detail.FULL) -> flag_pb2.WatchFlagsResponse:
    """A change as a watch shows it."""
    gone = flag_pb2.Flag(
        name=change.ref.key, environment=change.ref.environment, version=change.version, revision=change.revision
    )
    message = flag_pb2.FlagChange(
        revision=change.revision,
        type="PUT" if change.record else "DELETE",
        flag=flag(change.record, detail) if change.record else gone,
        previous=_previous(change, detail),
        previous_omitted=change.before is not None and not detail.includes_before,
    )
    return flag_pb2.WatchFlagsResponse(change=message)


def context(request: flag_pb2.EvaluateFlagRequest | flag_pb2.BatchEvaluateFlagsRequest) -> Context:
    """The user that flags are evaluated for."""
    if not request.HasField("attributes"):
        return Context(request.user_id)
    return Context(request.user_id, {name: json_of(value) for name, value in request.attributes.fields.items()})


def evaluation(outcome: Outcome, user_id: str, detail: Detail = Detail.FULL) -> flag_pb2.Evaluation:
    """The result of one evaluation, or the reason why there is none."""
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
    message.explanation_omitted = outcome.explanation is not None and not detail.includes_before
    if outcome.explanation is not None and detail.includes_before:
        message.explanation.CopyFrom(struct_of(outcome.explanation.to_json()))
    return message


def _previous(change: Change, detail: Detail) -> flag_pb2.Flag | None:
    if change.previous is None or not detail.includes_before:
        return None
    return _contents(change.previous, change.previous.body)


def _contents(record: Record, body: JsonObject) -> flag_pb2.Flag:
    """A flag without the times and the author of its writes."""
    message = flag_pb2.Flag()
    fill(message, body)
    message.environment = record.ref.environment
    message.version = record.version
    message.etag = record.etag
    message.revision = record.revision
    return message
