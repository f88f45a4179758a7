"""Configurations."""

from typing import Any

from configsvc_client.v1 import config_pb2

from configsvc.domain.configs import EffectiveConfig
from configsvc.domain.json_values import Absent, Difference
from configsvc.domain.records import Change, Record, etag_of
from configsvc.rpc.convert.changes import changed_fields
from configsvc.rpc.convert.values import timestamp, value_of
from configsvc.rpc.responses.message_budget import Detail


def config(record: Record, detail: Detail = Detail.FULL) -> config_pb2.Config:
    """A configuration."""
    whole = detail.includes_after
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


def effective(found: EffectiveConfig, detail: Detail = Detail.FULL) -> config_pb2.EffectiveConfig:
    """A configuration as a service sees it."""
    record = found.record
    return config_pb2.EffectiveConfig(
        key=record.ref.key,
        value=value_of(record.body["value"]) if detail.includes_after else None,
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


def config_change(change: Change, detail: Detail = Detail.FULL) -> config_pb2.WatchConfigsResponse:
    """A change as a watch tells it."""
    ref = change.ref
    message = config_pb2.ConfigChange(revision=change.revision, type="PUT" if change.record else "DELETE")
    identity: dict[str, Any] = {"key": ref.key, "environment": ref.environment, "service_name": ref.service}
    if change.record:
        message.config.CopyFrom(config(change.record, detail))
    else:
        message.config.CopyFrom(config_pb2.Config(**identity, version=change.version, revision=change.revision))
    message.previous_omitted = change.before is not None and not detail.includes_before
    if change.before is not None and detail.includes_before:
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
