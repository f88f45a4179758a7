"""A replica under which an older backup of the database can be restored."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from configsvc.app.changelog.lineage.shared_checkpoint import SharedCheckpoint
from configsvc.app.changelog.tail import LogTail
from configsvc.bus.local import LocalBus
from configsvc.cache.local import LocalCache
from configsvc.domain.lineage import Checkpoint
from configsvc.storage.port import Storage
from tests.app.fake_clock import FakeClock
from tests.app.replica import POLL_SECONDS, config, write
from tests.conformance.storage.databases import Database

A, B = config("a"), config("b")


@dataclass
class RestorableReplica:
    """A replica on a database that can be restored, and a cache that outlives the replica."""

    database: Database
    storage: Storage
    clock: FakeClock
    cache: LocalCache
    tail: LogTail

    async def catch_up(self) -> None:
        """Returns when the tail has applied the log of the database to its head."""
        while True:
            await self.tail.catch_up()
            state = await self.storage.state()
            if (self.tail.history, self.tail.applied) == (state.history, state.head):
                return

    async def put(self, *values: tuple[object, object]) -> Checkpoint:
        """Writes each value as another replica does; returns the end of the log."""
        for ref, value in values:
            await write(self.storage, (ref, value))  # type: ignore[arg-type]
        return (await self.storage.state()).end


@asynccontextmanager
async def open_restorable(database: Database, cache: LocalCache, clock: FakeClock) -> AsyncIterator[RestorableReplica]:
    async with (
        database.open() as storage,
        LocalBus() as bus,
        LogTail(
            log=storage,
            bus=bus,
            clock=clock,
            poll_seconds=POLL_SECONDS,
            shared_checkpoint=SharedCheckpoint(cache, clock),
        ) as tail,
    ):
        yield RestorableReplica(database, storage, clock, cache, tail)
