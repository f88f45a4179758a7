"""A follower of the replica, and a replica whose database can be restored from a backup."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from configsvc.cache.local import LocalCache
from tests.app.changelog.restoring import A, B, RestorableReplica, open_restorable
from tests.app.fake_clock import FakeClock
from tests.app.replica import RecordingFollower, Replica
from tests.conformance.storage.databases import Database, sqlite_database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return sqlite_database(tmp_path)


@pytest.fixture
def cache(clock: FakeClock) -> LocalCache:
    return LocalCache(1 << 20, clock)


@pytest.fixture
async def restorable(database: Database, cache: LocalCache, clock: FakeClock) -> AsyncIterator[RestorableReplica]:
    async with open_restorable(database, cache, clock) as opened:
        yield opened


@pytest.fixture
async def restore(restorable: RestorableReplica) -> Callable[[], None]:
    """Restores a backup in which A is 1 and B is missing; the replica has applied A as 2, and B."""
    await restorable.put((A, 1))
    restore = restorable.database.back_up()
    await restorable.put((A, 2), (B, 2))
    await restorable.catch_up()
    return restore


@pytest.fixture
def seen(replica: Replica) -> RecordingFollower:
    return replica.following(RecordingFollower())
