"""Decisions that are the same for resources of every kind."""

from collections.abc import Sequence

from configsvc.domain.preconditions import Precondition
from configsvc.domain.records import Decision, Mutation, Ref, Remove, View
from configsvc.domain.resources import not_found


def deletion(ref: Ref, precondition: Precondition) -> Decision:
    """The resource must exist and be as the precondition says."""

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        if current is None:
            raise not_found(ref)
        precondition.check(ref, current)
        return (Remove(ref),)

    return decide
