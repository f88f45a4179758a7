"""The checkpoint in the shared cache, which outlives every replica."""

import asyncio

import pytest

from configsvc.app.changelog.lineage.shared_checkpoint import SharedCheckpoint
from configsvc.cache.local import LocalCache
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint
from tests.app.changelog.restoring import A, B, open_restorable
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import write
from tests.conformance.storage.databases import Database

pytestmark = pytest.mark.timeout(120)


async def test_fresh_replica_notices_that_the_log_has_lost_revisions(
    database: Database, cache: LocalCache, clock: FakeClock
) -> None:
    async with open_restorable(database, cache, clock) as restorable:
        await restorable.put((A, 1))
        restore = database.back_up()
        lost = await restorable.put((A, 2), (B, 2))
        await restorable.catch_up()
        await until_shared(SharedCheckpoint(cache, clock), lost, clock)
    restore()
    async with open_restorable(database, cache, clock) as restorable:
        assert restorable.tail.history != lost.history
        assert restorable.tail.applied == lost.revision + LEAP_REVISIONS
        await until_shared(SharedCheckpoint(cache, clock), restorable.tail.checkpoint, clock)
    # Restored once more from the same backup, which has the first history again.
    restore()
    async with open_restorable(database, cache, clock) as restorable:
        assert restorable.tail.applied > lost.revision + LEAP_REVISIONS


async def test_replica_compares_the_log_with_a_newer_checkpoint_of_another_replica(
    database: Database, cache: LocalCache, clock: FakeClock
) -> None:
    async with open_restorable(database, cache, clock) as restorable:
        here = await restorable.put((A, 1))
        await restorable.catch_up()
        assert restorable.tail.checkpoint == here
        newer = Checkpoint(here.history, 50, "0" * 32)
        await put_by_another_replica(cache, newer)
        while restorable.tail.history == here.history:
            await clock.advance(1)
            await restorable.catch_up()
        assert restorable.tail.applied == 50 + LEAP_REVISIONS


async def test_restore_is_not_noticed_without_a_checkpoint(database: Database, clock: FakeClock) -> None:
    """Then the operator has to announce it with `configsvc new-history`."""
    async with database.open() as storage:
        here = (await storage.state()).history
        restore = database.back_up()
        await write(storage, (A, 1))
    restore()
    async with open_restorable(database, LocalCache(1 << 20, clock), clock) as restorable:
        assert (restorable.tail.history, restorable.tail.applied) == (here, 0)


async def until_shared(shared: SharedCheckpoint, checkpoint: Checkpoint, clock: FakeClock) -> None:
    """Returns when a replica has put this checkpoint into the cache."""
    while await shared.get() != checkpoint:
        await clock.advance(1)
        await settle()


async def put_by_another_replica(cache: LocalCache, checkpoint: Checkpoint) -> None:
    other = SharedCheckpoint(cache, FakeClock())
    other.advance(checkpoint)

    async def ignored(_: Checkpoint) -> None:
        """Nothing is newer than it."""

    task = asyncio.create_task(other.exchange(ignored))
    while await other.get() != checkpoint:
        await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
