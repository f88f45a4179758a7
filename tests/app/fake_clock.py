"""A clock that stands still until the test advances it."""

import asyncio
import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

# Iterations of the event loop after which tasks that wait only for each other have stopped making progress.
ROUNDS = 25
# Reached only if the test fails.
PATIENCE_SECONDS = 20.0


async def settle() -> None:
    """Runs every task that can run now. Does not wait for threads."""
    for _ in range(ROUNDS):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds. For what threads must do, too."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what the tests look at has no event
            await asyncio.sleep(0)


class FakeClock:
    """Wall time and monotonic time that change only in `advance`."""

    def __init__(self, start: datetime = datetime(2025, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._seconds = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._fell_asleep = asyncio.Event()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._seconds + seconds, next(self._numbers), woken))
        self._fell_asleep.set()
        await woken

    async def asleep(self, sleepers: int = 1) -> None:
        """Returns when at least so many tasks sleep. If the test advanced earlier, they would start to sleep too late."""
        while sum(not woken.done() for _, _, woken in self._sleepers) < sleepers:
            self._fell_asleep.clear()
            await self._fell_asleep.wait()

    async def advance(self, seconds: float) -> None:
        """Advances step by step: at each time at which a task wakes, lets it run before going on."""
        end = self._seconds + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._seconds = max(self._seconds, at)
            woken.set_result(None)
            await settle()
        self._seconds = end
        await settle()
