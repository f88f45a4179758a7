"""What a write changed: the audit trail, and the results of a batch."""

from configsvc_client.v1 import change_pb2, flag_pb2

from configsvc.app.batches import AppliedOperation
from configsvc.domain.json_values import changed_members
from configsvc.domain.records import Change, Record
from configsvc.rpc.convert.values import struct_of, timestamp
from configsvc.rpc.responses.message_budget import Detail


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


def applied(found: AppliedOperation) -> change_pb2.AppliedChange:
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


def audit(change: Change, detail: Detail = Detail.FULL) -> change_pb2.Change:
    """One row of the audit trail."""
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
