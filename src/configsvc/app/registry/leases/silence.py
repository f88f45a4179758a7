"""Which leases have silence to measure: the others need no look until half of their length has passed.

A lease that is renewed in time is looked at about twice in its length, however often its instance sends heartbeats. So a
sweep costs what is silent, and not what is registered.
"""

import heapq
from itertools import count

from configsvc.app.registry.leases.lease import Lease
from configsvc.app.registry.leases.lease_clock import LeaseClock
from configsvc.domain.records import Ref

# An instance whose last heartbeat is less than this part of its lease ago is not silent. Heartbeats come three times a lease.
SILENT_PART = 0.5
# Void entries are removed if they are more than the others, and more than this.
VOID_ENTRIES = 1_000


class SilentLeases:
    """The silent ones of the leases that were added: each is silent until a heartbeat was heard here lately.

    Entries are ordered on the lease clock. The age of a heartbeat is never more than what has passed on that clock, so no
    lease is silent before its entry is due.
    """

    def __init__(self, clock: LeaseClock) -> None:
        self._clock = clock
        self._silent: dict[Ref, Lease] = {}
        # When each of the others may become silent, and the number of its entry. Entries with another number are void.
        self._heard: list[tuple[float, int, Lease]] = []
        self._entries: dict[Ref, int] = {}
        self._numbers = count(1)

    def add(self, lease: Lease) -> None:
        """A lease is new, or its length has changed, or what is known of it is to be read again."""
        self._entries.pop(lease.incarnation.ref, None)
        self._silent[lease.incarnation.ref] = lease

    def remove(self, ref: Ref) -> None:
        """The lease has ended."""
        self._entries.pop(ref, None)
        self._silent.pop(ref, None)

    def now(self) -> list[Lease]:
        """The leases that are silent now."""
        now = self._clock.seconds
        while self._heard and self._heard[0][0] <= now:
            _, number, lease = heapq.heappop(self._heard)
            if self._entries.get(lease.incarnation.ref) == number:
                self.add(lease)
        for ref, lease in tuple(self._silent.items()):
            if (until := self._heard_until(lease)) > now:
                del self._silent[ref]
                self._entries[ref] = number = next(self._numbers)
                heapq.heappush(self._heard, (until, number, lease))
        if len(self._heard) > VOID_ENTRIES + 2 * len(self._entries):
            self._heard = [entry for entry in self._heard if self._entries.get(entry[2].incarnation.ref) == entry[1]]
            heapq.heapify(self._heard)
        return list(self._silent.values())

    def _heard_until(self, lease: Lease) -> float:
        """Until when on the lease clock an instance does not count as silent; 0 if it is silent."""
        heard = lease.last_heartbeat
        if heard is None or heard.is_from_store or not lease.is_loaded:
            return 0.0
        return self._clock.seconds - self._clock.age(heard) + SILENT_PART * lease.ttl_seconds
