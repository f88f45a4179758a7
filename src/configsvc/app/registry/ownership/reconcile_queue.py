"""What is to be reconciled with the registry, without duplicates; what failed comes back after a back-off.

As in Kubernetes' work queues (client-go `util/workqueue`): an item says what to read again, not what has changed. So equal
items are merged, and an item that failed can be retried at any time.
"""

import asyncio
from dataclasses import dataclass

from configsvc.backoff import Backoff
from configsvc.clock import Clock
from configsvc.registry.port import NodesChanged, ReplicasChanged

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class AllChanged:
    """Anything may have changed: read the whole registry."""


ReconcileItem = AllChanged | ReplicasChanged | NodesChanged


class ReconcileQueue:
    """First in, first out, but for `ReplicasChanged`, which comes first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: dict[ReconcileItem, None] = {}
        self._changed = asyncio.Event()
        self._failed: dict[ReconcileItem, None] = {}
        self._has_failed = asyncio.Event()
        self._backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)

    @property
    def has_failed(self) -> bool:
        """Whether an item waits for its retry."""
        return bool(self._failed)

    def add(self, item: ReconcileItem) -> None:
        """Adds an item at the end. An equal item that waits already is moved there."""
        self._pending.pop(item, None)
        self._pending[item] = None
        self._changed.set()

    def retry(self, item: ReconcileItem) -> None:
        """Adds an item after the back-off's next pause."""
        self._failed[item] = None
        self._has_failed.set()

    def clear(self) -> None:
        """Removes all items."""
        self._pending.clear()
        self._failed.clear()

    def take(self) -> ReconcileItem | None:
        """The next item; None if none is pending.

        A replica that is gone comes first: until its instances are adopted, other readers of the registry miss them.
        """
        if not self._pending:
            if not self._failed:
                self._backoff.reset()
            return None
        first = ReplicasChanged()
        item = first if first in self._pending else next(iter(self._pending))
        del self._pending[item]
        return item

    async def wait(self) -> None:
        """Returns when an item is pending."""
        while not self._pending:
            self._changed.clear()
            await self._changed.wait()

    async def run_retries(self) -> None:
        """Adds failed items again, for ever."""
        while True:
            await self._has_failed.wait()
            await self._clock.sleep(self._backoff.next())
            self._has_failed.clear()
            failed, self._failed = self._failed, {}
            for item in failed:
                self._pending.setdefault(item)
            self._changed.set()
