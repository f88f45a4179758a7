"""Configurations as messages."""

from configsvc_client.v1 import config_pb2

from configsvc.domain.configs import Config, EffectiveConfig
from configsvc.domain.json_values import Absent, Difference
from configsvc.domain.records import Change, Record
from configsvc.rpc.convert.changes import changed_fields
from configsvc.rpc.convert.message_budget import Detail
from configsvc.rpc.convert.values import set_timestamp, timestamp, value_of


def config(record: Record, detail: Detail = Detail.FULL) -> config_pb2.Config:
    """A configuration."""
    message = _contents(record, is_whole=detail.includes_after)
    message.value_omitted = not detail.includes_after
    set_timestamp(message.updated_at, record.updated_at)
    message.updated_by = record.updated_by
    return message


def effective(found: EffectiveConfig, detail: Detail = Detail.FULL) -> config_pb2.EffectiveConfig:
    """A configuration as a service sees it."""
    record = found.record
    return config_pb2.EffectiveConfig(
        key=record.ref.key,
        value=value_of(Config.of(record.body).value) if detail.includes_after else None,
        source=found.source,
        overrides_shared=found.overrides_shared,
        version=record.version,
        etag=record.etag,
        revision=record.revision,
        value_omitted=not detail.includes_after,
    )


def config_version(change: Change, detail: Detail = Detail.FULL) -> config_pb2.ConfigVersion:
    """One write in a configuration's history."""
    before = change.before if detail.includes_before else None
    after = change.after if detail.includes_after else None
    return config_pb2.ConfigVersion(
        version=change.version,
        action=change.action,
        before=value_of(Config.of(before).value) if before is not None else None,
        after=value_of(Config.of(after).value) if after is not None else None,
        actor=change.actor,
        reason=change.reason,
        at=timestamp(change.at),
        revision=change.revision,
        description=Config.of(change.after).description if change.after is not None else "",
        before_omitted=before is not change.before or change.has_lost_before,
        after_omitted=after is not change.after,
        changed_fields=changed_fields(change),
    )


def config_change(change: Change, detail: Detail = Detail.FULL) -> config_pb2.WatchConfigsResponse:
    """A change as a watch shows it."""
    message = config_pb2.ConfigChange(
        revision=change.revision,
        type="PUT" if change.record else "DELETE",
        config=config(change.record, detail) if change.record else _deleted(change),
        previous_omitted=change.previous is not None and not detail.includes_before,
    )
    if change.previous is not None and detail.includes_before:
        message.previous.CopyFrom(_contents(change.previous, is_whole=True))
    return config_pb2.WatchConfigsResponse(change=message)


def difference(found: Difference, detail: Detail = Detail.FULL) -> config_pb2.ConfigDifference:
    """One difference; a side that has no value is not set."""
    has_before, has_after = not isinstance(found.before, Absent), not isinstance(found.after, Absent)
    return config_pb2.ConfigDifference(
        path=found.path,
        op=found.op,
        before=value_of(found.before) if has_before and detail.includes_before else None,
        after=value_of(found.after) if has_after and detail.includes_after else None,
        before_omitted=has_before and not detail.includes_before,
        after_omitted=has_after and not detail.includes_after,
    )


def _contents(record: Record, *, is_whole: bool) -> config_pb2.Config:
    """A configuration without the time and the author of its last write; without its contents if it is not whole."""
    ref = record.ref
    # Inner messages are filled in place: the constructor copies those that it is given.
    message = config_pb2.Config(
        key=ref.key,
        environment=ref.environment,
        service_name=ref.service,
        version=record.version,
        etag=record.etag,
        revision=record.revision,
    )
    if is_whole:
        contents = Config.of(record.body)
        value_of(contents.value, message.value)
        message.description = contents.description
    set_timestamp(message.created_at, record.created_at)
    return message


def _deleted(change: Change) -> config_pb2.Config:
    ref = change.ref
    return config_pb2.Config(
        key=ref.key,
        environment=ref.environment,
        service_name=ref.service,
        version=change.version,
        revision=change.revision,
    )
