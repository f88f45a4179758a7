"""Rollback of a flag to an earlier version."""

from collections.abc import Sequence
from dataclasses import replace

from configsvc_client.evaluation import Flag, InvalidFlag, check_flag, check_successor

from configsvc.domain.flags import body_of, flag_of, invalid_input, parse, with_incarnation
from configsvc.domain.preconditions import Precondition
from configsvc.domain.prerequisites import with_prerequisite_check
from configsvc.domain.records import Action, Decision, JsonObject, Mutation, Put, Ref, View
from configsvc.domain.resources import error_metadata
from configsvc.errors import FailedPrecondition, InvalidInput


def rollback(ref: Ref, version: int, definition: JsonObject, token: str, precondition: Precondition) -> Decision:
    """Writes an earlier version's definition again; brings a deleted flag back. `token`: see `flags.creation`.

    The salt stays as it is now, and so do the variants that came later, behind the earlier ones: neither may ever change.
    Raises `FailedPrecondition` (reason `VERSION_NOT_RESTORABLE`) if the current flag, or another flag, forbids the earlier
    definition.
    """

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        before = None if current is None else flag_of(current)
        earlier = parse(definition)
        try:
            after = earlier if before is None else _successor(before, earlier)
        except InvalidFlag as error:
            raise invalid_input(error) from error
        return (Put(ref, body_of(with_incarnation(before, after, token)), Action.ROLLBACK),)

    def decide_or_explain(view: View) -> Sequence[Mutation]:
        precondition.check(ref, view.get(ref))
        try:
            return with_prerequisite_check(decide)(view)
        except InvalidInput as error:
            raise FailedPrecondition(
                f"version {version} of flag '{ref.key}' can't be written again as things are now: {error}",
                "VERSION_NOT_RESTORABLE",
                {**error_metadata(ref), "version": str(version)},
            ) from error

    return decide_or_explain


def _successor(before: Flag, earlier: Flag) -> Flag:
    """The earlier version, changed so that it can follow `before`. Raises `InvalidFlag` if that is impossible."""
    after = replace(earlier, salt=before.salt)
    later = before.all_variants[len(earlier.all_variants) :]
    if later and not earlier.variants:
        # The implied variants have to be written out, and then so do the variants that they imply for each case.
        after = replace(
            after,
            variants=earlier.all_variants,
            default_variant=earlier.served_default,
            off_variant=earlier.served_off,
            on_variant=earlier.served_on,
        )
    after = replace(after, variants=(*after.variants, *later))
    check_flag(after)
    check_successor(before, after)
    return after
