"""The supervisor of the child processes: it waits for a backend, and restarts children."""

import asyncio
import errno
import logging
import os
import signal
from collections.abc import AsyncIterator

import pytest

from configsvc import settings
from configsvc.gateway import keeper, readiness, supervisor
from configsvc.settings import SettingsError
from tests.app.fake_clock import FakeClock, settle
from tests.engines.ports import Port


class NotReadyReports(logging.Handler):
    """Sets its event when the second report that the service is not ready was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.second = asyncio.Event()
        self._reports = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._reports += "/ready says why" in record.getMessage()
        if self._reports == 2:
            self.second.set()


def test_backend_that_cannot_be_reached_does_not_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "NOT_READY_SECONDS", 0.2)

    async def run() -> None:
        reports = NotReadyReports()
        readiness.logger.addHandler(reports)
        try:
            running = asyncio.create_task(supervisor.ProcessSupervisor(settings.load()).run())
            async with asyncio.timeout(30):
                reported = asyncio.create_task(reports.second.wait())
                await asyncio.wait((running, reported), return_when=asyncio.FIRST_COMPLETED)
                assert not running.done()
                os.kill(os.getpid(), signal.SIGTERM)
                await running
        finally:
            readiness.logger.removeHandler(reports)

    with Port() as unused:
        monkeypatch.setenv("HOST", "127.0.0.1")
        monkeypatch.setenv("PORT", "0")
        monkeypatch.setenv("DATABASE_URL", f"postgresql://user@127.0.0.1:{unused.number}/none")
        asyncio.run(run())


class FakeChild:
    """A child that ends when the test says so. The next `refusals` starts fail."""

    name = "worker 0"

    def __init__(self) -> None:
        self.refusals = 0
        self.starts = 0
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.starts += 1
        self._status = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await self._status

    def end(self, status: int = -signal.SIGKILL) -> None:
        self._status.set_result(status)


class Kept:
    """One fake child that is kept running, on a fake clock."""

    def __init__(self) -> None:
        self.clock, self.child, self.failures = FakeClock(), FakeChild(), list[Exception]()
        self.keeper = keeper.Keeper(self.clock, self.failures.append)
        self.keeper.keep(self.child)  # type: ignore[arg-type]

    async def child_ends(self, status: int = -signal.SIGKILL) -> None:
        await settle()
        self.child.end(status)
        await settle()


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    made = Kept()
    yield made
    await made.keeper.close()


async def test_child_that_cannot_be_started_now_is_started_later(kept: Kept) -> None:
    kept.child.refusals = 2
    await kept.child_ends()
    await kept.clock.advance(7 * keeper.SHORTEST_PAUSE_SECONDS)
    assert (kept.child.refusals, kept.child.starts) == (0, 1)
    assert kept.failures == []


async def test_pauses_between_restarts_are_bounded_and_reset_after_a_healthy_run(kept: Kept) -> None:
    for restarts in range(1, 12):
        await kept.child_ends()
        await kept.clock.advance(keeper.LONGEST_PAUSE_SECONDS)
        assert kept.child.starts == restarts, "never later than the longest pause"
    await kept.child_ends()
    await kept.clock.advance(keeper.LONGEST_PAUSE_SECONDS / 2 * 0.99)
    assert kept.child.starts == 11, "not before half of it"
    await kept.clock.advance(keeper.LONGEST_PAUSE_SECONDS)
    await kept.clock.advance(keeper.HEALTHY_SECONDS)
    await kept.child_ends()
    await kept.clock.advance(keeper.SHORTEST_PAUSE_SECONDS)
    assert kept.child.starts == 13, "the shortest pause again"


async def test_child_that_refuses_its_settings_ends_the_run(kept: Kept) -> None:
    await kept.child_ends(os.EX_CONFIG)
    assert kept.child.starts == 0
    (failure,) = kept.failures
    assert isinstance(failure, SettingsError)


async def test_child_that_ends_after_its_release_is_not_restarted(kept: Kept) -> None:
    await settle()
    kept.keeper.release(kept.child)  # type: ignore[arg-type]
    await kept.child_ends()
    await kept.clock.advance(keeper.LONGEST_PAUSE_SECONDS)
    assert kept.child.starts == 0


async def test_child_that_is_released_during_the_pause_is_not_restarted(kept: Kept) -> None:
    await kept.child_ends()
    kept.keeper.release_all()
    await kept.clock.advance(keeper.LONGEST_PAUSE_SECONDS)
    assert kept.child.starts == 0
