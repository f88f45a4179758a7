"""Waits that a clock limits."""

import asyncio

import pytest

from configsvc.clock import run_within, wait_for_event, wait_within
from tests.app.fake_clock import FakeClock


class Work:
    """Work that ends when its future does. Records whether it was cancelled."""

    def __init__(self) -> None:
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.was_cancelled = False

    async def __call__(self) -> str:
        try:
            return await self.result
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def test_wait_ends_with_the_future_or_at_the_limit_and_leaves_the_future_alone() -> None:
    clock = FakeClock()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_within(clock, 5, future))
    await clock.advance(4.9)
    assert not waiting.done()
    await clock.advance(0.1)
    assert await waiting is False
    assert not future.cancelled()
    waiting = asyncio.create_task(wait_within(clock, 5, future))
    await clock.advance(1)
    future.set_result(None)
    assert await waiting is True
    assert await wait_within(clock, 0, future) is True


async def test_wait_without_a_limit_ends_with_the_future() -> None:
    clock = FakeClock()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_within(clock, None, future))
    await clock.advance(1_000_000)
    assert not waiting.done()
    future.set_result(None)
    assert await waiting is True


async def test_work_within_the_limit_gives_its_result_or_its_error() -> None:
    clock, work = FakeClock(), Work()
    running = asyncio.create_task(run_within(clock, 5, work()))
    await clock.advance(4)
    work.result.set_result("done")
    assert await running == "done"
    failing = Work()
    failing.result.set_exception(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        await run_within(clock, 5, failing())


async def test_work_beyond_the_limit_is_cancelled() -> None:
    clock, work = FakeClock(), Work()
    running = asyncio.create_task(run_within(clock, 5, work()))
    await clock.advance(5)
    with pytest.raises(TimeoutError):
        await running
    assert work.was_cancelled


async def test_cancelled_caller_cancels_its_work() -> None:
    clock, work = FakeClock(), Work()
    running = asyncio.create_task(run_within(clock, 5, work()))
    await clock.asleep()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert work.was_cancelled


async def test_event_is_awaited_up_to_the_limit() -> None:
    clock, event = FakeClock(), asyncio.Event()
    waiting = asyncio.create_task(wait_for_event(clock, 5, event))
    await clock.advance(5)
    assert await waiting is False
    waiting = asyncio.create_task(wait_for_event(clock, 5, event))
    await clock.advance(4)
    event.set()
    assert await waiting is True
    assert await wait_for_event(clock, 0, event) is True
