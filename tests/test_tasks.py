"""Supervised tasks: whatever ends one, it is restarted, and the supervisor reports the failure."""

import asyncio
import gc
import logging
import weakref

import pytest

from configsvc.tasks import HEALTHY_SECONDS, LONGEST_PAUSE_SECONDS, BackgroundTasks, SupervisedTask, Supervisor
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
    task = supervisor.supervise("the work", work)
    await settle()
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


async def test_cancel_stops_the_task_without_waiting() -> None:
    work = Work()
    supervisor = Supervisor(FakeClock())
    task = await started(work, supervisor)
    ended: list[SupervisedTask] = []
    task.add_done_callback(ended.append)
    task.cancel()
    assert (ended, supervisor.tasks) == ([], (task,))
    await settle()
    assert (ended, supervisor.tasks, work.starts) == ([task], (), 1)


async def test_failure_says_how_often_and_since_when() -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    task = await started(work, supervisor)
    since = clock.now().isoformat()
    work.end_with(ValueError("a"))
    await settle()
    assert str(supervisor.failures[0]) == f"'the work' failed once since {since}, and was started again: ValueError: a"
    await clock.advance(1)
    work.end_with(ValueError("b"))
    await settle()
    assert str(supervisor.failures[0]).startswith(f"'the work' failed 2 times since {since}, ")
    await task.stop()


async def test_recovery_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    task = await started(work, supervisor)
    work.end_with(ValueError("bad"))
    await settle()
    await clock.advance(1 + HEALTHY_SECONDS)
    with caplog.at_level(logging.INFO):
        assert supervisor.failures == supervisor.failures == ()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.INFO] == [
        "the task 'the work' runs well again"
    ]
    await task.stop()


async def test_background_task_is_referenced_until_it_is_done() -> None:
    background = BackgroundTasks("owner")
    # Nothing but `background` refers to the task, nor to the future that it awaits.
    reference = weakref.ref(background.start(_wait_forever()))
    await settle()
    gc.collect()
    task = reference()
    assert task is not None
    assert not task.done()
    task.cancel()
    await settle()
    del task
    gc.collect()
    assert reference() is None


async def test_background_task_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    background = BackgroundTasks("owner")
    work = Work()
    background.start(work())
    await settle()
    work.end_with(ValueError("bad"))
    await settle()
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno) == ("a task of the owner failed", logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_background_task_that_succeeds_or_is_cancelled_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    background = BackgroundTasks("owner")
    work, cancelled = Work(), background.start(_wait_forever())
    done = background.start(work())
    await settle()
    work.end_with(None)
    cancelled.cancel()
    await settle()
    assert (done.done(), cancelled.cancelled(), caplog.text) == (True, True, "")


async def test_stop_cancels_background_tasks_and_waits_until_they_are_done() -> None:
    background = BackgroundTasks("owner")
    ended: list[str] = []

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await settle()
            ended.append("ended")
            raise ValueError("ignored: the stop does not fail")

    tasks = [background.start(slow_to_end()) for _ in range(2)]
    await settle()
    await background.stop()
    assert ended == ["ended", "ended"]
    assert all(task.done() for task in tasks)


async def _wait_forever() -> None:
    await asyncio.get_running_loop().create_future()
