"""Sticky flags: a user keeps the variant that a rollout or a split gave, whatever becomes of percentage and weights.

Assignments are in the cache that all replicas share. The first replica that makes an assignment decides: the cache
keeps the first content at each revision of an entry. An assignment is made if chance gave a variant, never if chance
gave nothing, so that nobody is kept out. It ends when a rule or the targeted users decide for its user: the entry's next
revision is empty, and the revision after that may be the next assignment.

An assignment also ends with the flag's incarnation (`domain.flags.with_incarnation`), which is part of its key. So nothing has
to be found and deleted, and a replica that evaluates an older flag set assigns in the older incarnation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from configsvc_client.evaluation import Context, Flag, FlagNotFound, FlagSet, Reason
from configsvc_client.evaluation.conditions import USER_ID

from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.app.flags.evaluation import EvaluationQuery
from configsvc.domain.json_values import digest
from configsvc.domain.records import AtRevision

# The variants that are assigned to one user, by flag.
AssignedVariants = Mapping[str, str]
# Revision and content of cache entries, by key. Content that is not a variant's name is an assignment that has ended.
_Entries = Mapping[str, AtRevision[object]]

_NONE: AssignedVariants = {}
_ENDED = None


class StickyAssignments:
    """The assignments of sticky flags. While the cache is away there are none, and none are made."""

    def __init__(self, fallback_cache: FallbackCache) -> None:
        self._fallback_cache = fallback_cache

    async def assign(self, flag_set: FlagSet, queries: Sequence[EvaluationQuery]) -> Sequence[AssignedVariants]:
        """For each query, the variants that are assigned to its user; makes the assignments that are due."""
        keys_by_query = [dict(_keys(flag_set, query)) for query in queries]
        all_keys = {key for keys in keys_by_query for key in keys.values()}
        if not all_keys:
            return [_NONE] * len(queries)
        entries = dict(await self._fallback_cache.get(sorted(all_keys)))
        for key, entry in entries.items():
            if isinstance(entry.value, str):
                # The assignment is in use: its life starts again.
                self._fallback_cache.put(_fallback_entry(key, entry.revision, entry.value))
        updates: dict[str, FallbackEntry] = {}
        for query, keys in zip(queries, keys_by_query, strict=True):
            assigned = _assigned(keys, entries)
            for name, key in keys.items():
                if key not in updates and (update := _update(flag_set, name, query.context, assigned, key, entries)):
                    updates[key] = update
        entries |= await self._fallback_cache.put_if_absent([*updates.values()])
        return [_assigned(keys, entries) for keys in keys_by_query]


def _update(
    flag_set: FlagSet, name: str, context: Context, assigned: AssignedVariants, key: str, entries: _Entries
) -> FallbackEntry | None:
    """The next revision of the entry of a flag's assignment; None if the entry stays as it is."""
    flag = flag_set.get(name)
    if flag is None or (name in assigned and not flag.rules and not flag.targeted_users):
        return None
    evaluation = flag_set.evaluate(name, context, assigned=assigned)
    revision = entries[key].revision + 1 if key in entries else 1
    if name in assigned:
        return _fallback_entry(key, revision, _ENDED) if evaluation.reason is Reason.TARGETING_MATCH else None
    return _fallback_entry(key, revision, evaluation.variant) if evaluation.reason is Reason.SPLIT else None


def _keys(flag_set: FlagSet, query: EvaluationQuery) -> Iterator[tuple[str, str]]:
    """The key of the assignment of each sticky flag that the result depends on, by the flag's name."""
    try:
        flags = flag_set.required_by(query.flag_name)
    except FlagNotFound:
        return
    for flag in flags:
        if flag.sticky and (unit := flag_set.unit_of(flag.name, query.context)) is not None:
            owner = digest(flag.incarnation, unit.decode()) if flag.incarnation else _first_owner(flag, query.context)
            yield flag.name, f"assignment:{flag_set.environment}:{flag.name}:{owner}"


def _first_owner(flag: Flag, context: Context) -> str:
    """The owner's digest for a flag that was written before flags had incarnations: its assignments still count."""
    by_user = flag.bucket_by in ("", USER_ID)
    return digest(flag.salt, json.dumps(context.user_id if by_user else context.attributes.get(flag.bucket_by)))


def _assigned(keys: Mapping[str, str], entries: _Entries) -> AssignedVariants:
    contents = {name: entries[key].value for name, key in keys.items() if key in entries}
    return {name: variant for name, variant in contents.items() if isinstance(variant, str)}


def _fallback_entry(key: str, revision: int, variant: object) -> FallbackEntry:
    return FallbackEntry(key, revision, lambda: variant)
