"""How long somebody has listened for signs of life: the clock on which leases run.

It goes on only while at least one replica listens and can reach the store, so an instance is never called silent for a
time in which nobody could have heard it: the service was down, paused, or cut off from its store. Each replica measures
on its monotonic clock, tells the store, and goes on from the highest that any replica has told. No wall clock has a part
in it, neither a replica's nor the database's.
"""

import math
from dataclasses import dataclass

from configsvc.clock import Clock
from configsvc.errors import ServiceError
from configsvc.storage.port import Heartbeats


@dataclass(frozen=True, slots=True)
class LeaseInstant:
    """A point on this clock, and the same on this process's monotonic one: minus infinity if the store told it."""

    heard_seconds: float
    at: float = -math.inf

    @property
    def is_of_the_store(self) -> bool:
        """Whether the store told it, and this process has not heard it."""
        return self.at == -math.inf


class LeaseClock:
    """See the module. `tell` from time to time; what is read in between goes on by itself."""

    def __init__(self, heartbeats: Heartbeats, clock: Clock) -> None:
        self._heartbeats = heartbeats
        self._clock = clock
        self._heard = 0.0
        self._since = clock.monotonic()
        self.has_begun = False

    @property
    def heard_seconds(self) -> float:
        """Now."""
        return self._heard + self._clock.monotonic() - self._since

    def now(self) -> LeaseInstant:
        """Now, to be compared later."""
        return LeaseInstant(self.heard_seconds, self._clock.monotonic())

    def age(self, moment: LeaseInstant) -> float:
        """The seconds since, of which somebody listened and of which this process, if it was there, saw go by.

        The smaller of both: while this replica was cut off, others may have listened, and their time comes in later.
        """
        return max(0.0, min(self.heard_seconds - moment.heard_seconds, self._clock.monotonic() - moment.at))

    async def tell(self) -> None:
        """Tells the store and learns from it. If it can't be reached, the time since the last call does not count."""
        told_at = self._clock.monotonic()
        try:
            heard = await self._heartbeats.advance_lease_clock(self.heard_seconds if self.has_begun else 0.0)
        except ServiceError:
            self.pause()
            raise
        self._heard, self._since, self.has_begun = heard, told_at, True

    def pause(self) -> None:
        """This process stood still: the time since it last told the store does not count."""
        self._since = self._clock.monotonic()
