"""A server that hangs costs each call a bounded time, and an event loop that was held up costs none its answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from configsvc.clock import SystemClock
from configsvc.errors import Unavailable
from configsvc.registry.zookeeper.answers import ANSWER_SECONDS, CHECK_SECONDS, PendingAnswers
from tests.app.registry.world import HandClock

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def answers(clock: HandClock) -> AsyncIterator[PendingAnswers]:
    pending = PendingAnswers(clock)
    task = asyncio.ensure_future(pending.run())
    yield pending
    task.cancel()


async def checks(clock: HandClock, count: int = 3) -> None:
    """Returns when the deadlines have been checked a few times."""
    enough = clock.naps[CHECK_SECONDS] + count
    while clock.naps[CHECK_SECONDS] < enough:
        await SystemClock().sleep(0.001)


async def test_answer_that_does_not_come_is_an_error(clock: HandClock, answers: PendingAnswers) -> None:
    with answers.expected() as first:
        clock.forward(ANSWER_SECONDS - 0.1)
        with answers.expected() as second:
            await checks(clock)
            assert not first.done()
            clock.forward(0.2)
            with pytest.raises(Unavailable, match="does not answer"):
                await first
            await checks(clock)
            assert not second.done()
            clock.forward(ANSWER_SECONDS)
            with pytest.raises(Unavailable):
                await second


async def test_answer_that_waits_behind_the_check_is_not_late(clock: HandClock, answers: PendingAnswers) -> None:
    await checks(clock)
    loop = asyncio.get_running_loop()
    with answers.expected() as answer:
        clock.forward(2 * ANSWER_SECONDS)
        until = loop.time() + 0.05
        while loop.time() < until:
            # The loop is held up: the next check is due before the answer is handed over.
            pass
        loop.call_soon(answer.set_result, "late")
        assert await answer == "late"


async def test_caller_that_gave_up_is_forgotten(clock: HandClock, answers: PendingAnswers) -> None:
    with pytest.raises(ZeroDivisionError), answers.expected():
        raise ZeroDivisionError
    assert not answers._asked_at


async def test_answer_that_waits_behind_others_is_not_overdue_while_they_come(
    clock: HandClock, answers: PendingAnswers
) -> None:
    with answers.expected() as last:
        for _ in range(3):
            clock.forward(ANSWER_SECONDS - 0.1)
            answers.heard()
            await checks(clock)
            assert not last.done()
        clock.forward(ANSWER_SECONDS)
        with pytest.raises(Unavailable):
            await last
