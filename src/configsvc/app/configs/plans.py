"""Writes of configurations as operations of a batch (`app/batches`): checked alone, decided together."""

from configsvc.app.batches import PlannedWrite
from configsvc.domain import config_writes
from configsvc.domain.configs import ConfigDraft, check_identity
from configsvc.domain.decisions import deletion
from configsvc.domain.fields import Fields
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import Ref


def plan_creation(fields: Fields, draft: ConfigDraft) -> PlannedWrite:
    """`ConfigStore.create`."""
    check_identity(fields, draft.ref)
    draft.check(fields)
    return PlannedWrite(draft.ref, config_writes.creation(draft), ["create", draft.service_name, draft.content])


def plan_update(
    fields: Fields,
    draft: ConfigDraft,
    *,
    precondition: Precondition = NO_PRECONDITION,
    allow_missing: bool = False,
) -> PlannedWrite:
    """`ConfigStore.update`."""
    check_identity(fields, draft.ref)
    draft.check(fields, partial=True)
    decision = config_writes.update(draft, precondition, allow_missing=allow_missing)
    content = ["update", draft.service_name, draft.content, precondition.content, allow_missing]
    return PlannedWrite(draft.ref, decision, content)


def plan_deletion(fields: Fields, ref: Ref, *, precondition: Precondition = NO_PRECONDITION) -> PlannedWrite:
    """`ConfigStore.delete`."""
    check_identity(fields, ref)
    return PlannedWrite(ref, deletion(ref, precondition), ["delete", ref.service, precondition.content])
