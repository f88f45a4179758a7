"""Callers that wait until this replica has applied a revision."""

import asyncio
from bisect import bisect_left, insort
from itertools import count

from configsvc.clock import Clock, wait_within
from configsvc.errors import Unavailable


class RevisionWaiters:
    """The waiters in the order of their revisions, so that an advance touches only those that it wakes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._applied = 0
        self._closed = False
        # The number orders waiters for the same revision: futures can't be compared.
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()

    async def wait(self, revision: int, timeout_seconds: float | None) -> None:
        """Returns when `revision` is applied. See `LogTail.wait_for` for what it raises."""
        if self._applied < revision and not self._closed:
            await self._wait(revision, timeout_seconds)
        if self._applied >= revision:
            return
        if self._closed:
            raise Unavailable("this replica is shutting down", "SHUTTING_DOWN")
        raise Unavailable(
            f"revision {revision} is not applied here yet, only {self._applied}",
            "REVISION_NOT_REACHED",
            {"applied": str(self._applied), "required": str(revision)},
        )

    def advance(self, applied: int) -> None:
        """Wakes those that wait for this revision or one below it."""
        self._applied = applied
        end = bisect_left(self._waiters, applied + 1, key=lambda waiter: waiter[0])
        _wake(self._waiters[:end])
        del self._waiters[:end]

    def close(self) -> None:
        """Wakes everyone; nobody waits from now on."""
        self._closed = True
        _wake(self._waiters)

    async def _wait(self, revision: int, timeout_seconds: float | None) -> None:
        reached = asyncio.get_running_loop().create_future()
        waiter = (revision, next(self._numbers), reached)
        insort(self._waiters, waiter)
        try:
            await wait_within(self._clock, timeout_seconds, reached)
        finally:
            index = bisect_left(self._waiters, waiter)
            if index < len(self._waiters) and self._waiters[index] is waiter:
                del self._waiters[index]


def _wake(waiters: list[tuple[int, int, "asyncio.Future[None]"]]) -> None:
    for _, _, reached in waiters:
        if not reached.done():
            reached.set_result(None)
