"""Sticky flags: what a rollout or a split gave to a user stays the user's, whatever becomes of percentage and weights.

An assignment lies in the cache that all replicas share. The first replica that makes one decides: there is no second
revision of it. It is made where chance gave something, never where it gave nothing, so that nobody is kept out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from configsvc_client.evaluation import Context, Flag, FlagNotFound, FlagSet, Reason

from configsvc.app.copies import Copy, SharedCopies
from configsvc.app.outcomes import Asked
from configsvc.domain.json_values import digest

Assigned = Mapping[str, str]

_NOTHING: Assigned = {}


class Assignments:
    """The assignments of sticky flags. While the cache is away there are none, and none are made."""

    def __init__(self, copies: SharedCopies) -> None:
        self._copies = copies

    async def of(self, flag_set: FlagSet, asked: Sequence[Asked]) -> Sequence[Assigned]:
        """For each question what has been assigned to its user, by flag, this time included."""
        keys = [dict(_keys(flag_set, one)) for one in asked]
        wanted = {key for named in keys for key in named.values()}
        if not wanted:
            return [_NOTHING] * len(asked)
        there = {key: variant for key, (_, variant) in (await self._copies.find(sorted(wanted))).items()}
        for key, variant in there.items():
            # In use: it lives anew.
            self._copies.leave(_copy(key, variant))
        made: dict[str, Copy] = {}
        for one, named in zip(asked, keys, strict=True):
            assigned = _assigned(named, there)
            for name, key in named.items():
                if key not in there and key not in made:
                    found = flag_set.evaluate(name, one.context, assigned=assigned)
                    if found.reason is Reason.SPLIT:
                        made[key] = _copy(key, found.variant)
        there |= {key: variant for key, (_, variant) in (await self._copies.settle([*made.values()])).items()}
        return [_assigned(named, there) for named in keys]


def _keys(flag_set: FlagSet, asked: Asked) -> Iterator[tuple[str, str]]:
    """Where the assignment of each sticky flag lies that has a say in the answer."""
    try:
        flags = flag_set.required_by(asked.flag_name)
    except FlagNotFound:
        return
    for flag in flags:
        unit = _unit(flag, asked.context)
        if flag.sticky and unit not in (None, ""):
            yield flag.name, f"assignment:{flag_set.environment}:{flag.name}:{digest(flag.salt, json.dumps(unit))}"


def _unit(flag: Flag, context: Context) -> object:
    if flag.bucket_by in ("", "user_id"):
        return context.user_id
    return context.attributes.get(flag.bucket_by)


def _assigned(named: Mapping[str, str], there: Mapping[str, object]) -> Assigned:
    found = {name: there[key] for name, key in named.items() if key in there}
    return {name: variant for name, variant in found.items() if isinstance(variant, str)}


def _copy(key: str, variant: object) -> Copy:
    return Copy(key, 1, lambda: variant)
