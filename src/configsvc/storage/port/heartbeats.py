"""Heartbeats of instances, shared by all replicas."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from configsvc.domain.instances import Incarnation


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last heartbeat of one incarnation, in seconds of the lease clock (see `Heartbeats`).

    `seen_at`: its last heartbeat. `granted_at`: when it last got a lease without a heartbeat; less than `seen_at` if it
    got none since that heartbeat.
    """

    seen_at: float
    granted_at: float


class Heartbeats(Protocol):
    """Stores heartbeats and leases.

    Points in time are seconds of the *lease clock*: how long at least one replica has been listening for heartbeats since
    the database was made. Replicas measure it with monotonic clocks; the store keeps the highest value. So the clock
    stands still while no replica listens, and a jump of a wall clock does not change it. Heartbeats survive a restart of
    the store.
    """

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        """A replica that listens measured this. Returns the highest value that any replica measured.

        Raises `Unavailable`.
        """
        ...

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        """These incarnations sent a heartbeat at these points. Raises `Unavailable`.

        Ignores a heartbeat that is older than the stored one, or is of an earlier incarnation.
        """
        ...

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        """Grants each a lease at this point without a heartbeat, unless it got one since its last heartbeat.

        An unknown incarnation counts as seen at this point. Raises `Unavailable`.
        """
        ...

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        """The stored heartbeat of each; unknown incarnations are missing. Raises `Unavailable`."""
        ...

    async def forget_heartbeats(self, before: float) -> None:
        """Deletes those that have neither been seen nor granted a lease since then. Raises `Unavailable`."""
        ...
