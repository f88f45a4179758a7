"""What a write changed: rows of the audit log, and the results of a batch."""

from configsvc_client.v1 import change_pb2, flag_pb2

from configsvc.app.batches import AppliedOperation
from configsvc.app.changelog.audit import AuditFilter
from configsvc.domain.json_values import changed_members
from configsvc.domain.records import Change
from configsvc.rpc.convert.message_budget import Detail
from configsvc.rpc.convert.values import struct_of, time_of, timestamp


def changed_fields(change: Change) -> tuple[str, ...]:
    """The members that a write changed; none for a create or a delete."""
    return changed_members(change.before, change.after)


def changed_flag_fields(change: Change) -> tuple[str, ...]:
    """`changed_fields`, without the members that a Flag message does not have."""
    return tuple(name for name in changed_fields(change) if name in flag_pb2.Flag.DESCRIPTOR.fields_by_name)


def applied(operation: AppliedOperation) -> change_pb2.AppliedChange:
    """The outcome of one operation of a batch."""
    ref = operation.ref
    return change_pb2.AppliedChange(
        kind=ref.kind,
        environment=ref.environment,
        service_name=ref.service,
        key=ref.key,
        action=operation.action,
        version=operation.version,
        etag=operation.etag,
    )


def audit_filter(request: change_pb2.ListChangesRequest) -> AuditFilter:
    """Which changes a search of the audit log selects."""
    return AuditFilter(
        environment=request.environment,
        service_name=request.service_name if request.HasField("service_name") else None,
        kind=request.kind,
        key=request.key,
        actor=request.actor,
        reason=request.reason,
        from_time=time_of(request.from_time, "from_time") if request.HasField("from_time") else None,
        until_time=time_of(request.until_time, "until_time") if request.HasField("until_time") else None,
        after_revision=request.after_revision,
        until_revision=request.until_revision,
    )


def audit(change: Change, detail: Detail = Detail.FULL) -> change_pb2.Change:
    """One row of the audit log."""
    before = change.before if detail.includes_before else None
    after = change.after if detail.includes_after else None
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
