"""The decisions of each write of a configuration. They are pure: each sees a view that the store has locked."""

from collections.abc import Sequence

from configsvc.domain.configs import Config, ConfigDraft, ConfigOperation
from configsvc.domain.decisions import deletion
from configsvc.domain.json_values import MISSING, MISSING_VALUE
from configsvc.domain.preconditions import Precondition
from configsvc.domain.records import Action, Decision, Mutation, Put, View
from configsvc.domain.resources import already_exists, not_found
from configsvc.errors import InvalidInput


def creation(draft: ConfigDraft) -> Decision:
    """The configuration must not exist."""

    def decide(view: View) -> Sequence[Mutation]:
        if (current := view.get(draft.ref)) is not None:
            raise already_exists(current)
        return (Put(draft.ref, draft.applied_to(Config(MISSING)).body, Action.CREATE),)

    return decide


def update(
    draft: ConfigDraft, precondition: Precondition, *, allow_missing: bool, action: Action = Action.UPDATE
) -> Decision:
    """The configuration must exist, unless `allow_missing`, and be as the precondition says."""

    ref = draft.ref

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        precondition.check(ref, current)
        if current is None and not (allow_missing or precondition.requires_absence):
            raise not_found(ref)
        contents = draft.applied_to(Config.of(current.body) if current else Config(MISSING))
        if contents.value is MISSING:
            raise InvalidInput.of("value", MISSING_VALUE)
        created = current is None and action is Action.UPDATE
        return (Put(ref, contents.body, Action.CREATE if created else action),)

    return decide


def decision(operation: ConfigOperation) -> Decision:
    """The decision of one operation of a batch."""
    if operation.delete:
        return deletion(operation.draft.ref, operation.precondition)
    if operation.must_not_exist:
        return creation(operation.draft)
    return update(operation.draft, operation.precondition, allow_missing=True)
