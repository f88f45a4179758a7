"""The hand-over of the database file: the next process waits for the lock, but not for ever."""

import asyncio
from pathlib import Path

import pytest

from configsvc.errors import Unavailable
from configsvc.storage.sqlite.handover import HANDOVER_SECONDS, POLL_SECONDS, open_after_handover
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.fake_clock import FakeClock


async def _open_and_close(path: Path, clock: FakeClock) -> None:
    async with open_after_handover(SqliteStorage(path), clock) as storage:
        await storage.ping()


async def test_file_is_opened_as_soon_as_its_owner_lets_go(tmp_path: Path) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    async with SqliteStorage(path):
        opening = asyncio.create_task(_open_and_close(path, clock))
        await clock.asleep()
        await clock.advance(POLL_SECONDS)
        await clock.asleep()
    await clock.advance(POLL_SECONDS)
    async with asyncio.timeout(60):
        await opening


async def test_file_in_use_is_an_error_after_the_time_limit(tmp_path: Path) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    async with SqliteStorage(path):
        opening = asyncio.create_task(_open_and_close(path, clock))
        async with asyncio.timeout(60):
            while clock.monotonic() <= HANDOVER_SECONDS:
                assert not opening.done()
                await clock.asleep()
                await clock.advance(POLL_SECONDS)
            with pytest.raises(Unavailable) as refused:
                await opening
    assert refused.value.reason == "STORAGE_IN_USE"
