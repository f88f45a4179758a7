"""Going back to an earlier version of a flag."""

from collections.abc import Sequence
from dataclasses import replace

from configsvc_client.evaluation import Flag, InvalidFlag, check_flag, check_successor

from configsvc.domain.flags import body, incarnated, read, refused, stored
from configsvc.domain.preconditions import Precondition
from configsvc.domain.prerequisites import judged
from configsvc.domain.records import Action, Decision, JsonObject, Mutation, Put, Ref, View
from configsvc.domain.resources import error_metadata
from configsvc.errors import FailedPrecondition, InvalidInput


def rollback(ref: Ref, version: int, definition: JsonObject, token: str, precondition: Precondition) -> Decision:
    """Writes an earlier version's definition again; brings a deleted flag back. `token`: see `flags.creation`.

    What never changes stays as it is now: the salt, and the variants that came later, behind the earlier ones. Raises
    `FailedPrecondition` (reason `VERSION_NOT_RESTORABLE`) if the flag, or the others, don't allow the definition any more.
    """

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        before = None if current is None else stored(current)
        earlier = read(definition)
        try:
            after = earlier if before is None else _succeeding(before, earlier)
        except InvalidFlag as error:
            raise refused(error) from error
        return (Put(ref, body(incarnated(before, after, token)), Action.ROLLBACK),)

    def decide_or_say_why_not(view: View) -> Sequence[Mutation]:
        precondition.check(ref, view.get(ref))
        try:
            return judged(decide)(view)
        except InvalidInput as error:
            raise FailedPrecondition(
                f"version {version} of flag '{ref.key}' can't be written again as things are now: {error}",
                "VERSION_NOT_RESTORABLE",
                {**error_metadata(ref), "version": str(version)},
            ) from error

    return decide_or_say_why_not


def _succeeding(before: Flag, earlier: Flag) -> Flag:
    """An earlier version as the one that follows `before`. Raises `InvalidFlag` if it can't be."""
    after = replace(earlier, salt=before.salt)
    later = before.all_variants[len(earlier.all_variants) :]
    if later and not earlier.variants:
        # Implied variants are written out, and so is what is implied with them.
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
