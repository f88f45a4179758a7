"""Supervised tasks: whatever ends one, it is restarted, and the supervisor reports the failure."""

import asyncio
import logging

import pytest

from configsvc.tasks import HEALTHY_SECONDS, LONGEST_PAUSE_SECONDS, SupervisedTask, Supervisor
from tests.app.fake_clock import FakeClock, settle

pytestmark = pytest.mark.timeout(60)


class Work:
    """Work that runs until the test ends it."""

    def __init__(self) -> None:
        self.starts = 0
        self._end: asyncio.Future[None] | None = None

    async def __call__(self) -> None:
        self.starts += 1
        self._end = asyncio.get_running_loop().create_future()
        await self._end

    def end_with(self, error: BaseException | None) -> None:
        assert self._end is not None
        if error is None:
            self._end.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            self._end.cancel()
        else:
            self._end.set_exception(error)


async def started(work: Work, supervisor: Supervisor, *, may_return: bool = False) -> SupervisedTask:
    task = supervisor.supervise("the work", work, may_return=may_return)
    await settle()
    return task


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (RecursionError(), "RecursionError"),
        (ExceptionGroup("several", [KeyError("a")]), "KeyError: 'a'"),
        (None, "it ended"),
        (asyncio.CancelledError(), "it was cancelled"),
        (ValueError("x" * 5_000), "ValueError: " + "x" * 288 + "…"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_ended_task_is_restarted_and_reported(
    error: BaseException | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    task = await started(work, supervisor)
    assert list(supervisor.failures) == []
    with caplog.at_level(logging.ERROR):
        work.end_with(error)
        await settle()
    assert "the work" in caplog.text
    (failure,) = supervisor.failures
    assert (failure.task, failure.count, failure.reason, failure.since) == ("the work", 1, reason, clock.now())
    await clock.advance(1)
    assert work.starts == 2
    assert list(supervisor.failures) == [failure], "a restart alone does not make it healthy"
    await clock.advance(HEALTHY_SECONDS)
    assert list(supervisor.failures) == []
    await task.stop()
    assert (work.starts, supervisor.tasks) == (2, ())


async def test_pauses_are_bounded_and_reset_after_a_healthy_run() -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    task = await started(work, supervisor)
    first = clock.now()
    for starts in range(1, 20):
        work.end_with(ValueError(str(starts)))
        await settle()
        await clock.advance(LONGEST_PAUSE_SECONDS)
        assert work.starts == starts + 1, "never later than the longest pause"
    (failure,) = supervisor.failures
    assert (failure.since, failure.count, failure.reason) == (first, 19, "ValueError: 19")
    await clock.advance(HEALTHY_SECONDS)
    work.end_with(ValueError("later"))
    await settle()
    (failure,) = supervisor.failures
    assert (failure.count, failure.reason) == (1, "ValueError: later")
    await clock.advance(0.1)
    assert work.starts == 21, "the shortest pause again"
    await task.stop()


async def test_task_that_may_return_is_restarted_only_if_it_fails() -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    task = await started(work, supervisor, may_return=True)
    work.end_with(OSError("no"))
    await settle()
    await clock.advance(1)
    work.end_with(None)
    await task.wait()
    assert (work.starts, supervisor.tasks, supervisor.failures) == (2, (), ())


async def test_stopped_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    supervisor = Supervisor(FakeClock())
    task = await started(work, supervisor)
    await task.stop()
    assert (work.starts, supervisor.failures, supervisor.tasks, caplog.text) == (1, (), (), "")


async def test_task_that_fails_immediately_does_not_block_the_loop() -> None:
    clock = FakeClock()

    async def fail() -> None:
        raise ValueError("always")

    supervisor = Supervisor(clock)
    task = supervisor.supervise("failing", fail)
    await settle()
    assert task.starts == 1, "the restart waits for the clock"
    await task.stop()
