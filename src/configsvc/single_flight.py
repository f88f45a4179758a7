"""Single flight: concurrent callers of the same work share one run of it (as Go's `golang.org/x/sync/singleflight`)."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """At most one run of the work at a time for each key."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: dict[K, asyncio.Task[T]] = {}

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the run for `key` that has not ended yet; starts one if there is none.

        Raises what the work raised. A caller that is cancelled leaves the run to the other callers.
        """
        return await asyncio.shield(self.start(key, work))

    def start(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> "asyncio.Task[T]":
        """The same without waiting. The task is shared: await it through `asyncio.shield`."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(work(), name=self._name)
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def forget(self, key: K) -> None:
        """The next caller starts a new run, although this one has not ended: what it reads may be too old by now."""
        self._running.pop(key, None)

    def _ended(self, key: K, task: "asyncio.Task[T]") -> None:
        if self._running.get(key) is task:
            del self._running[key]
        # Retrieve the exception, so that asyncio does not warn when every waiter was cancelled.
        if not task.cancelled():
            task.exception()
