"""The background task that compacts the log."""

import asyncio
import logging
from datetime import timedelta

import pytest

from configsvc.app.changelog.compaction import Compaction
from configsvc.errors import Unavailable
from configsvc.storage.port import QuietPeriods, RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock
from tests.app.replica import config, write

pytestmark = pytest.mark.timeout(60)


class CountingCompactor:
    """The storage's compactor; counts its runs, and fails if the test says so."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.fails = False
        self.runs = 0

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        return await self._storage.quiet_periods(longer_than)

    async def compact(self, policy: RetentionPolicy) -> int:
        self.runs += 1
        if self.fails:
            raise Unavailable("the disk is full")
        return await self._storage.compact(policy)


async def test_compaction_runs_at_the_start_and_then_every_interval(storage: Storage) -> None:
    clock, compactor = FakeClock(), CountingCompactor(storage)
    for value in range(10):
        await write(storage, (config("a"), value))
    async with Compaction(compactor, clock, keep_changes=4, interval_seconds=60):
        await clock.asleep()
        assert (await storage.state()).compacted == 6
        for value in range(3):
            await write(storage, (config("a"), value))
        await clock.advance(59)
        assert compactor.runs == 1
        await clock.advance(1)
        await clock.asleep()
        assert compactor.runs == 2
        assert (await storage.state()).compacted == 9
    await clock.advance(600)
    assert compactor.runs == 2


async def test_failure_is_logged_and_the_next_run_tries_again(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    clock, compactor = FakeClock(), CountingCompactor(storage)
    compactor.fails = True
    for value in range(10):
        await write(storage, (config("a"), value))
    with caplog.at_level(logging.ERROR):
        async with Compaction(compactor, clock, keep_changes=4, interval_seconds=60):
            await clock.asleep()
            assert "could not be compacted" in caplog.text
            assert (await storage.state()).compacted == 0
            compactor.fails = False
            await clock.advance(60)
            await clock.asleep()
            assert (await storage.state()).compacted == 6


async def test_leaving_does_not_wait_for_the_interval(storage: Storage) -> None:
    async with asyncio.timeout(5):
        async with Compaction(storage, FakeClock(), keep_changes=4, interval_seconds=10**6):
            pass


async def test_changes_older_than_the_age_are_compacted(storage: Storage) -> None:
    clock = FakeClock()
    for value in range(3):
        await write(storage, (config("a"), value))
    async with Compaction(storage, clock, keep_changes=100, interval_seconds=60, keep_age=timedelta(seconds=90)):
        await clock.asleep()
        assert (await storage.state()).compacted == 0
        await clock.advance(60)
        await clock.asleep()
        assert (await storage.state()).compacted == 0
        await clock.advance(60)
        await clock.asleep()
        assert (await storage.state()).compacted == 3
