"""Queues of registry events: each subscriber reads at its own pace."""

import asyncio
from typing import Self
from weakref import WeakSet

from configsvc.registry.port import RegistryEvent


class EventQueue:
    """The events of one subscriber. Equal events that wait are merged, so the queue is bounded and loses nothing."""

    def __init__(self, closed: bool) -> None:
        self._waiting: dict[RegistryEvent, None] = {}
        self._changed = asyncio.Event()
        self._closed = closed

    def put(self, event: RegistryEvent) -> None:
        """Adds an event at the end. An equal event that waits already is moved there."""
        self._waiting.pop(event, None)
        self._waiting[event] = None
        self._changed.set()

    def close(self) -> None:
        """Ends the iteration after the events that wait."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RegistryEvent:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        event = next(iter(self._waiting))
        del self._waiting[event]
        return event


class EventQueues:
    """The queues of all subscribers. A queue that its subscriber has dropped is garbage collected."""

    def __init__(self) -> None:
        self._queues: WeakSet[EventQueue] = WeakSet()
        self._closed = False

    def subscribe(self) -> EventQueue:
        """A queue of all events from this call on, not only from the first step of the iteration."""
        queue = EventQueue(self._closed)
        self._queues.add(queue)
        return queue

    def publish(self, event: RegistryEvent) -> None:
        """Puts an event into every queue."""
        for queue in tuple(self._queues):
            queue.put(event)

    def close(self) -> None:
        """Closes every queue."""
        self._closed = True
        for queue in tuple(self._queues):
            queue.close()
