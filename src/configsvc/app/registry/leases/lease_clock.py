"""The clock that leases run on: the time during which at least one replica could receive heartbeats.

It runs only while some replica is up and can reach the store. So an instance never counts as silent for a time in which
no replica could have heard it: while the service was down, paused, or cut off from its store. Each replica measures on its
monotonic clock, reports to the store, and continues from the highest value that any replica has reported. No wall clock
is involved, neither a replica's nor the database's.
"""

import math
from dataclasses import dataclass

from configsvc.clock import Clock
from configsvc.errors import ServiceError
from configsvc.storage.port import Heartbeats


@dataclass(frozen=True, slots=True)
class LeaseInstant:
    """A point on the lease clock, and the same point on this process's monotonic clock.

    `monotonic_seconds` is minus infinity if the point was read from the store.
    """

    lease_seconds: float
    monotonic_seconds: float = -math.inf

    @property
    def is_from_store(self) -> bool:
        """Whether it was read from the store, and not measured by this process."""
        return self.monotonic_seconds == -math.inf


class LeaseClock:
    """Call `sync` from time to time. Between two calls the clock runs on this process's monotonic clock."""

    def __init__(self, heartbeats: Heartbeats, clock: Clock) -> None:
        self._heartbeats = heartbeats
        self._clock = clock
        self._synced_seconds = 0.0
        self._synced_at = clock.monotonic()
        self.is_synced = False

    @property
    def seconds(self) -> float:
        """The current time of this clock."""
        return self._synced_seconds + self._clock.monotonic() - self._synced_at

    def now(self) -> LeaseInstant:
        """The current instant, for a later call of `age`."""
        return LeaseInstant(self.seconds, self._clock.monotonic())

    def age(self, instant: LeaseInstant) -> float:
        """The seconds since `instant`, on this clock or on the process's monotonic clock: the smaller of both.

        While this replica was cut off, other replicas may have been up. Their time is added at the next `sync`, although
        this replica could not hear heartbeats then.
        """
        return max(0.0, min(self.seconds - instant.lease_seconds, self._clock.monotonic() - instant.monotonic_seconds))

    async def sync(self) -> None:
        """Reports to the store and takes over its value. If the store is down, the time since the last call is discarded.

        Raises `Unavailable`.
        """
        measured_at = self._clock.monotonic()
        try:
            highest = await self._heartbeats.advance_lease_clock(self.seconds if self.is_synced else 0.0)
        except ServiceError:
            self.discard_elapsed()
            raise
        self._synced_seconds, self._synced_at, self.is_synced = highest, measured_at, True

    def discard_elapsed(self) -> None:
        """Discards the time since the last `sync`. Call it if this process was paused."""
        self._synced_at = self._clock.monotonic()
