"""Tasks that are kept running: whatever ends one, it is started again, and it can be told that this happened."""

import asyncio
import logging

import pytest

from configsvc.tasks import LONGEST_PAUSE_SECONDS, WELL_SECONDS, SupervisedTask, Supervisor
from tests.app.fake_clock import FakeClock, settle

pytestmark = pytest.mark.timeout(60)


class Work:
    """Something that runs for ever, until it is told how to go."""

    def __init__(self) -> None:
        self.starts = 0
        self.way_out: asyncio.Future[None] | None = None

    async def __call__(self) -> None:
        self.starts += 1
        self.way_out = asyncio.get_running_loop().create_future()
        await self.way_out

    def fail(self, error: BaseException | None) -> None:
        assert self.way_out is not None
        if error is None:
            self.way_out.set_result(None)
        else:
            self.way_out.set_exception(error)

    def be_cancelled(self) -> None:
        assert self.way_out is not None
        self.way_out.cancel()


async def started(work: Work, supervisor: Supervisor, *, may_end: bool = False) -> SupervisedTask:
    kept = supervisor.keep("the work", work, may_end=may_end)
    await settle()
    return kept


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (RecursionError(), "RecursionError"),
        (ExceptionGroup("several", [KeyError("a")]), "KeyError: 'a'"),
        (None, "it ended"),
        (asyncio.CancelledError(), "it was cancelled"),
        (ValueError("x" * 5_000), "ValueError: " + "x" * 288 + "…"),
    ],
    ids=lambda how: str(how)[:20],
)
async def test_whatever_ends_a_task_it_is_started_again_and_said(
    how: BaseException | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    kept = await started(work, supervisor)
    assert list(supervisor.troubles) == []
    with caplog.at_level(logging.ERROR):
        if isinstance(how, asyncio.CancelledError):
            work.be_cancelled()
        else:
            work.fail(how)
        await settle()
    assert "the work" in caplog.text
    (trouble,) = supervisor.troubles
    assert (trouble.task, trouble.failures, trouble.reason, trouble.since) == ("the work", 1, reason, clock.now())
    await clock.advance(1)
    assert work.starts == 2
    assert list(supervisor.troubles) == [trouble], "one start is no proof"
    await clock.advance(WELL_SECONDS)
    assert list(supervisor.troubles) == []
    await kept.end()
    assert (work.starts, supervisor.kept) == (2, ())


async def test_pauses_grow_to_a_bound_and_a_task_that_ran_well_begins_anew() -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    kept = await started(work, supervisor)
    first = clock.now()
    for starts in range(1, 20):
        work.fail(ValueError(str(starts)))
        await settle()
        await clock.advance(LONGEST_PAUSE_SECONDS)
        assert work.starts == starts + 1, "never later than the longest pause"
    (trouble,) = supervisor.troubles
    assert (trouble.since, trouble.failures, trouble.reason) == (first, 19, "ValueError: 19")
    await clock.advance(WELL_SECONDS)
    work.fail(ValueError("later"))
    await settle()
    (trouble,) = supervisor.troubles
    assert (trouble.failures, trouble.reason) == (1, "ValueError: later")
    await clock.advance(0.1)
    assert work.starts == 21, "the shortest pause again"
    await kept.end()


async def test_one_that_may_end_is_not_started_again_unless_it_fails() -> None:
    clock, work = FakeClock(), Work()
    supervisor = Supervisor(clock)
    kept = await started(work, supervisor, may_end=True)
    work.fail(OSError("no"))
    await settle()
    await clock.advance(1)
    work.fail(None)
    await kept.ended()
    assert (work.starts, supervisor.kept, supervisor.troubles) == (2, (), ())


async def test_the_end_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    supervisor = Supervisor(FakeClock())
    kept = await started(work, supervisor)
    await kept.end()
    assert (work.starts, supervisor.troubles, supervisor.kept, caplog.text) == (1, (), (), "")


async def test_one_that_fails_at_once_does_not_hold_the_loop() -> None:
    clock = FakeClock()

    async def broken() -> None:
        raise ValueError("always")

    supervisor = Supervisor(clock)
    kept = supervisor.keep("broken", broken)
    await settle()
    assert kept.starts == 1, "it waits for the clock"
    await kept.end()
