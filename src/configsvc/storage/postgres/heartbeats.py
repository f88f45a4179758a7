"""Heartbeats in PostgreSQL."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from configsvc.domain.instances import Incarnation
from configsvc.storage.port import Heartbeat

# Runs a statement in its own transaction, and returns its rows.
Execute = Callable[[str, Sequence[Any]], Awaitable[Sequence[Sequence[Any]]]]

_ADVANCE_CLOCK = (
    "UPDATE configsvc.listening SET heard_seconds = greatest(heard_seconds, %s::double precision)"
    " RETURNING heard_seconds"
)
# Service, instance id and incarnation of each, as arrays.
_ARRAYS = "unnest(%s::text[], %s::text[], %s::integer[])"
# A later incarnation replaces the row; the same incarnation only raises its values.
_RECORD = """
INSERT INTO configsvc.lives AS l
SELECT *, -1 FROM unnest(%s::text[], %s::text[], %s::integer[], %s::double precision[])
ON CONFLICT (service, instance_id) DO UPDATE SET
    seen_at = CASE WHEN excluded.incarnation > l.incarnation THEN excluded.seen_at
              ELSE greatest(l.seen_at, excluded.seen_at) END,
    granted_at = CASE WHEN excluded.incarnation > l.incarnation THEN -1 ELSE l.granted_at END,
    incarnation = excluded.incarnation
WHERE excluded.incarnation >= l.incarnation
"""
_GRANT = f"""
INSERT INTO configsvc.lives AS l
SELECT n.*, h.at, h.at FROM {_ARRAYS} AS n CROSS JOIN (SELECT %s::double precision AS at) AS h
ON CONFLICT (service, instance_id) DO UPDATE SET
    seen_at = CASE WHEN excluded.incarnation > l.incarnation THEN excluded.seen_at ELSE l.seen_at END,
    granted_at = excluded.granted_at,
    incarnation = excluded.incarnation
WHERE excluded.incarnation > l.incarnation
    OR (excluded.incarnation = l.incarnation AND l.granted_at < l.seen_at)
"""
_SELECT = f"""
SELECT n.place, l.seen_at, l.granted_at
FROM {_ARRAYS} WITH ORDINALITY AS n (service, instance_id, incarnation, place)
JOIN configsvc.lives AS l USING (service, instance_id, incarnation)
"""
_FORGET = "DELETE FROM configsvc.lives WHERE greatest(seen_at, granted_at) < %s::double precision"


class PostgresHeartbeats:
    """Each call is one statement."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        ((highest,),) = await self._execute(_ADVANCE_CLOCK, (clock_seconds,))
        return float(highest)

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        ordered = sorted(seen)
        await self._execute(_RECORD, (*_arrays(ordered), [seen[incarnation] for incarnation in ordered]))

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        await self._execute(_GRANT, (*_arrays(sorted(incarnations)), clock_seconds))

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        ordered = list(incarnations)
        found = await self._execute(_SELECT, _arrays(ordered))
        return {ordered[place - 1]: Heartbeat(float(seen), float(granted)) for place, seen, granted in found}

    async def forget_heartbeats(self, before: float) -> None:
        await self._execute(_FORGET, (before,))


def _arrays(incarnations: Sequence[Incarnation]) -> tuple[list[Any], ...]:
    """In the given order. Writers sort them, so that two replicas that write the same rows can't deadlock."""
    return (
        [incarnation.ref.service for incarnation in incarnations],
        [incarnation.ref.key for incarnation in incarnations],
        [incarnation.number for incarnation in incarnations],
    )
