"""The bus of one process: every subscriber of a `LocalBus` gets what is announced on it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self
from weakref import WeakSet

from configsvc.domain.records import Change


class _Subscription:
    """The revisions for one subscriber: only the highest one that it has not taken yet is kept."""

    def __init__(self, closed: bool) -> None:
        self._revision = 0
        self._closed = closed
        self._changed = asyncio.Event()

    def offer(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        while not self._revision:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        revision, self._revision = self._revision, 0
        return revision


class LocalBus:
    """Announcements within one process. A subscription ends when nothing refers to its iterator any more."""

    name = "local"

    def __init__(self) -> None:
        self._subscriptions: WeakSet[_Subscription] = WeakSet()
        self._closed = False

    def announce(self, changes: Sequence[Change]) -> None:
        if changes:
            self.announce_revision(changes[-1].revision)

    def announce_revision(self, revision: int) -> None:
        """Tells every subscriber that the log has reached a revision; 0: it is empty, and nobody is told."""
        if revision and not self._closed:
            for subscription in self._subscriptions:
                subscription.offer(revision)

    def subscribe(self) -> AsyncIterator[int]:
        subscription = _Subscription(self._closed)
        self._subscriptions.add(subscription)
        return subscription

    async def ping(self) -> None:
        """Always succeeds: the bus is this process."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
