"""Sticky flags: what a rollout or a split gave to a user stays the user's, whatever becomes of percentage and weights.

An assignment lies in the cache that all replicas share. The first replica that makes one decides: at each revision of
an entry the first content stays. An assignment is made where chance gave something, never where it gave nothing, so that
nobody is kept out. It ends where a rule or the targeted users decide for its user: then the entry's next revision is
empty, and the one after that may be the next assignment.

An assignment also ends with the flag's incarnation (`domain.flags.incarnated`), which is a part of its key: there is
nothing to find and delete, and a replica that evaluates an older flag set assigns in the older incarnation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from configsvc_client.evaluation import Context, Flag, FlagNotFound, FlagSet, Reason
from configsvc_client.evaluation.conditions import USER_ID

from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.app.flags.evaluation import Asked
from configsvc.domain.json_values import digest

Assigned = Mapping[str, str]
# Revision and content by key; content that is no variant's name is an assignment that has ended.
_Held = Mapping[str, tuple[int, object]]

_NOTHING: Assigned = {}
_ENDED = None


class StickyAssignments:
    """The assignments of sticky flags. While the cache is away there are none, and none are made."""

    def __init__(self, fallback_cache: FallbackCache) -> None:
        self._fallback_cache = fallback_cache

    async def of(self, flag_set: FlagSet, asked: Sequence[Asked]) -> Sequence[Assigned]:
        """For each question what has been assigned to its user, by flag, this time included."""
        keys = [dict(_keys(flag_set, one)) for one in asked]
        wanted = {key for named in keys for key in named.values()}
        if not wanted:
            return [_NOTHING] * len(asked)
        there = dict(await self._fallback_cache.get(sorted(wanted)))
        for key, (revision, variant) in there.items():
            if isinstance(variant, str):
                # In use: it lives anew.
                self._fallback_cache.put(_fallback_entry(key, revision, variant))
        made: dict[str, FallbackEntry] = {}
        for one, named in zip(asked, keys, strict=True):
            assigned = _assigned(named, there)
            for name, key in named.items():
                if key not in made and (copy := _next(flag_set, name, one.context, assigned, key, there)):
                    made[key] = copy
        there |= await self._fallback_cache.put_if_absent([*made.values()])
        return [_assigned(named, there) for named in keys]


def _next(
    flag_set: FlagSet, name: str, context: Context, assigned: Assigned, key: str, there: _Held
) -> FallbackEntry | None:
    """What the entry of a flag's assignment becomes by this evaluation; None if it stays."""
    flag = flag_set.get(name)
    if flag is None or (name in assigned and not flag.rules and not flag.targeted_users):
        return None
    found = flag_set.evaluate(name, context, assigned=assigned)
    revision = there[key][0] + 1 if key in there else 1
    if name in assigned:
        return _fallback_entry(key, revision, _ENDED) if found.reason is Reason.TARGETING_MATCH else None
    return _fallback_entry(key, revision, found.variant) if found.reason is Reason.SPLIT else None


def _keys(flag_set: FlagSet, asked: Asked) -> Iterator[tuple[str, str]]:
    """Where the assignment of each sticky flag lies that has a say in the answer."""
    try:
        flags = flag_set.required_by(asked.flag_name)
    except FlagNotFound:
        return
    for flag in flags:
        if flag.sticky and (unit := flag_set.unit_of(flag.name, asked.context)) is not None:
            owner = digest(flag.incarnation, unit.decode()) if flag.incarnation else _first_owner(flag, asked.context)
            yield flag.name, f"assignment:{flag_set.environment}:{flag.name}:{owner}"


def _first_owner(flag: Flag, context: Context) -> str:
    """Of flags that were written before there were incarnations: their assignments still count."""
    by_user = flag.bucket_by in ("", USER_ID)
    return digest(flag.salt, json.dumps(context.user_id if by_user else context.attributes.get(flag.bucket_by)))


def _assigned(named: Mapping[str, str], there: _Held) -> Assigned:
    found = {name: there[key][1] for name, key in named.items() if key in there}
    return {name: variant for name, variant in found.items() if isinstance(variant, str)}


def _fallback_entry(key: str, revision: int, variant: object) -> FallbackEntry:
    return FallbackEntry(key, revision, lambda: variant)
