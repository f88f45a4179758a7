"""The supervisor with a backend that is away: it waits, and says so."""

import asyncio
import errno
import logging
import os
import signal

import pytest

from configsvc import settings
from configsvc.gateway import supervisor
from tests.engines.ports import Port


class Told(logging.Handler):
    """Sets its event when it has been told twice that the service is not ready."""

    def __init__(self) -> None:
        super().__init__()
        self.enough = asyncio.Event()
        self._times = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._times += "/ready says why" in record.getMessage()
        if self._times == 2:
            self.enough.set()


def test_a_backend_that_is_away_for_long_does_not_end_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "NOT_READY_SECONDS", 0.2)

    async def run() -> None:
        told = Told()
        supervisor.logger.addHandler(told)
        try:
            running = asyncio.create_task(supervisor.Supervisor(settings.load()).run())
            async with asyncio.timeout(30):
                waiting = asyncio.create_task(told.enough.wait())
                await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
                assert not running.done()
                os.kill(os.getpid(), signal.SIGTERM)
                await running
        finally:
            supervisor.logger.removeHandler(told)

    with Port() as nobody:
        monkeypatch.setenv("HOST", "127.0.0.1")
        monkeypatch.setenv("PORT", "0")
        monkeypatch.setenv("DATABASE_URL", f"postgresql://user@127.0.0.1:{nobody.number}/none")
        asyncio.run(run())


class Scarce:
    """A child on a machine that has no process to spare, twice."""

    name = "worker 0"

    def __init__(self) -> None:
        self.refusals = 2
        self.started = asyncio.Event()

    async def start(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.started.set()

    async def wait(self) -> int:
        if self.started.is_set():
            await asyncio.Event().wait()
        return -signal.SIGKILL


async def test_a_child_that_cant_be_started_now_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    child = Scarce()
    keeper = asyncio.create_task(supervisor.Supervisor(settings.load())._keep(child))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await child.started.wait()
    assert not keeper.done()
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
