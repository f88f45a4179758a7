"""The background job that bounds the log."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from configsvc.app.changelog.compaction import Compaction
from configsvc.errors import Unavailable
from configsvc.storage.port import QuietPeriods, RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock
from tests.app.replica import config, open_storage, write

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(tmp_path) as opened:
        yield opened


class Flaky:
    """The storage's compactor, which a test can make fail."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.fails = False
        self.turns = 0

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        return await self._storage.quiet_periods(longer_than)

    async def compact(self, policy: RetentionPolicy) -> int:
        self.turns += 1
        if self.fails:
            raise Unavailable("the disk is full")
        return await self._storage.compact(policy)


async def test_it_compacts_at_once_and_then_every_interval(storage: Storage) -> None:
    clock, compactor = FakeClock(), Flaky(storage)
    for value in range(10):
        await write(storage, (config("a"), value))
    async with Compaction(compactor, clock, keep_changes=4, interval_seconds=60):
        await clock.asleep()
        assert (await storage.state()).compacted == 6
        for value in range(3):
            await write(storage, (config("a"), value))
        await clock.advance(59)
        assert compactor.turns == 1
        await clock.advance(1)
        await clock.asleep()
        assert compactor.turns == 2
        assert (await storage.state()).compacted == 9
    await clock.advance(600)
    assert compactor.turns == 2


async def test_a_failure_is_logged_and_the_next_turn_tries_again(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    clock, compactor = FakeClock(), Flaky(storage)
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


async def test_leaving_ends_it_at_once(storage: Storage) -> None:
    async with asyncio.timeout(5):
        async with Compaction(storage, FakeClock(), keep_changes=4, interval_seconds=10**6):
            pass


async def test_what_is_older_than_its_age_goes_by_the_clock(storage: Storage) -> None:
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
