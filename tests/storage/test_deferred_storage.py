"""A storage that opens later. The inner storage is SQLite, and another owner of the file makes it unavailable."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from configsvc.clock import SystemClock
from configsvc.errors import FailedPrecondition, Unavailable
from configsvc.storage.deferred import LONGEST_RETRY_SECONDS, DeferredStorage
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.fake_clock import FakeClock
from tests.conformance.storage.writing import config, create

PATIENCE_SECONDS = 30.0


async def retry_until_open(storage: DeferredStorage, clock: FakeClock) -> None:
    """Lets the next retry run, which succeeds: the file is free."""
    await clock.asleep()
    await clock.advance(LONGEST_RETRY_SECONDS)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await is_open(storage):
            await SystemClock().sleep(0.001)


async def is_open(storage: DeferredStorage) -> bool:
    try:
        await storage.ping()
    except Unavailable:
        return False
    return True


def deferred(path: Path, clock: FakeClock) -> DeferredStorage:
    return DeferredStorage(SqliteStorage(path), clock=clock)


async def test_calls_tell_why_until_the_database_can_be_opened(tmp_path: Path) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    async with SqliteStorage(path) as owner:
        await owner.write(create(config("a")))
        storage = deferred(path, clock)
        await storage.__aenter__()
        with pytest.raises(Unavailable, match="is in use by process") as refused:
            await storage.get([config("a")])
        assert refused.value.reason == "STORAGE_IN_USE"
        with pytest.raises(Unavailable):
            async with storage.outbox_lease():
                raise AssertionError("a lease was given")
    await retry_until_open(storage, clock)
    assert (await storage.get([config("a")])).get(config("a")) is not None
    await storage.__aexit__(None, None, None)


@pytest.mark.parametrize("opens_at_once", [True, False])
async def test_end_closes_the_inner_storage(tmp_path: Path, opens_at_once: bool) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    storage = deferred(path, clock)
    if opens_at_once:
        await storage.__aenter__()
    else:
        async with SqliteStorage(path):
            await storage.__aenter__()
        await retry_until_open(storage, clock)
    await storage.__aexit__(None, None, None)
    # An inner storage that was left open would own the file.
    async with SqliteStorage(path) as next_owner:
        await next_owner.ping()


async def test_end_before_the_database_was_ever_available_raises_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    async with SqliteStorage(path) as owner:
        async with asyncio.timeout(PATIENCE_SECONDS), deferred(path, clock):
            await clock.asleep()
        # The inner storage was never opened, and closing it must not touch the owner's file.
        await owner.write(create(config("a")))


async def test_no_attempt_is_made_after_the_end(tmp_path: Path) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    async with SqliteStorage(path), deferred(path, clock):
        await clock.asleep()
    await clock.advance(10 * LONGEST_RETRY_SECONDS)
    async with SqliteStorage(path) as next_owner:
        await next_owner.ping()


async def test_database_of_a_newer_release_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 1000")
    with pytest.raises(FailedPrecondition) as refused:
        await deferred(path, FakeClock()).__aenter__()
    assert refused.value.reason == "STORAGE_SCHEMA_NEWER"
