"""Time, passed in, so that tests control it. Every wait that is bounded in time goes through a clock."""

import asyncio
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Wall time for people and records, monotonic time for intervals. Never compare one with the other."""

    def now(self) -> datetime:
        """Wall time, aware, in UTC. It may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from some fixed point; never decreases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns when `monotonic()` has advanced by at least `seconds`."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """`time.monotonic()`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)


async def wait_within(clock: Clock, seconds: float | None, future: "asyncio.Future[Any]") -> bool:
    """Whether the future was done before `seconds` (None: no limit) had passed. The future itself is left alone."""
    if seconds is None or future.done():
        await asyncio.wait((future,))
        return True
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((future, timer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
    return future.done()


async def run_within(clock: Clock, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises `TimeoutError`, with the work cancelled and ended, once `seconds` have passed."""
    task = asyncio.ensure_future(work)
    try:
        if not await wait_within(clock, seconds, task):
            raise TimeoutError
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_for_event(clock: Clock, seconds: float, event: asyncio.Event) -> bool:
    """Whether the event was set before `seconds` had passed."""
    if event.is_set():
        return True
    try:
        await run_within(clock, seconds, event.wait())
    except TimeoutError:
        return event.is_set()
    return True
