"""Those who listen to a registry's events, each at its own pace."""

import asyncio
from typing import Self
from weakref import WeakSet

from configsvc.registry.port import RegistryEvent


class EventQueue:
    """One listener. What it has not taken is held by content: merged, never lost."""

    def __init__(self, closed: bool) -> None:
        self._waiting: dict[RegistryEvent, None] = {}
        self._wake = asyncio.Event()
        self._closed = closed

    def hear(self, event: RegistryEvent) -> None:
        """A newer event goes behind those that wait."""
        self._waiting.pop(event, None)
        self._waiting[event] = None
        self._wake.set()

    def close(self) -> None:
        """The iteration ends after what waits."""
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RegistryEvent:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        event = next(iter(self._waiting))
        del self._waiting[event]
        return event


class EventQueues:
    """An iterator that nobody holds any more is forgotten."""

    def __init__(self) -> None:
        self._ears: WeakSet[EventQueue] = WeakSet()
        self._closed = False

    def listen(self) -> EventQueue:
        """Hears from this call on, not only from the first step of the iteration."""
        ear = EventQueue(self._closed)
        self._ears.add(ear)
        return ear

    def tell(self, event: RegistryEvent) -> None:
        """Tells all."""
        for ear in tuple(self._ears):
            ear.hear(event)

    def close(self) -> None:
        """Ends all iterations."""
        self._closed = True
        for ear in tuple(self._ears):
            ear.close()
