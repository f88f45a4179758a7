"""One replica without a server: real storage, bus and log tail, and a reader of the storage that can fail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from configsvc.app.changelog.follower import LogFollower
from configsvc.app.changelog.tail import LogTail
from configsvc.bus.local import LocalBus
from configsvc.clock import Clock
from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import (
    Action,
    Author,
    Change,
    Commit,
    Kind,
    Mutation,
    Put,
    Record,
    Ref,
    Remove,
    Scope,
    View,
    Write,
)
from configsvc.errors import Unavailable
from configsvc.storage.port import READ_BYTES, LogPage, RecordPage, RecordQuery, Storage
from configsvc.storage.sqlite.storage import SqliteStorage

F = TypeVar("F", bound=LogFollower)

AT = datetime(2025, 1, 1, tzinfo=UTC)
POLL_SECONDS = 1.0


def config(key: str, service: str = "svc", environment: str = "test") -> Ref:
    return Ref(Kind.CONFIG, environment, service, key)


def mutation(ref: Ref, value: object) -> Mutation:
    """`value` None: remove it."""
    return Remove(ref) if value is None else Put(ref, {"value": value}, Action.UPDATE)


async def write(storage: Storage, *values: tuple[Ref, object]) -> Commit:
    """One revision with these values."""
    return await write_all(storage, *(mutation(ref, value) for ref, value in values))


async def write_all(storage: Storage, *mutations: Mutation) -> Commit:
    """One revision with these mutations."""
    author = Author("tester", "", "", AT)
    return await storage.write(Write(author, tuple(one.ref for one in mutations), lambda view: mutations))


async def live(storage: Storage, scope: Scope) -> dict[Ref, Record]:
    """All live records of a scope, read from the store."""
    page = await storage.page(RecordQuery(scope.kind, scope.environment, 100_000))
    return {record.ref: record for record in page.records}


@dataclass
class FaultyReader:
    """The reading side of the storage, which counts its calls.

    `is_down`: every read fails. `release`: answers are held back until this event is set, as on a slow network;
    `is_holding` is set while an answer is held back.
    """

    storage: Storage
    is_down: bool = False
    release: asyncio.Event | None = None
    gets: int = 0
    reads: int = 0
    pages: int = 0
    states: int = 0
    is_holding: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(self, refs: Sequence[Ref]) -> View:
        self.gets += 1
        self._check()
        view = await self.storage.get(refs)
        await self._out()
        return view

    async def page(self, query: RecordQuery) -> RecordPage:
        self.pages += 1
        self._check()
        page = await self.storage.page(query)
        await self._out()
        return page

    async def state(self) -> LogState:
        self.states += 1
        self._check()
        return await self.storage.state()

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        self.reads += 1
        self._check()
        changes = await self.storage.read(after, limit, max_bytes)
        await self._out()
        return changes

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        self.reads += 1
        self._check()
        page = await self.storage.resume(seen, limit, max_bytes)
        await self._out()
        return page

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        self._check()
        return await self.storage.new_history_if_diverged(seen, reason)

    def _check(self) -> None:
        if self.is_down:
            raise Unavailable("the store is down")

    async def _out(self) -> None:
        if self.release is not None:
            self.is_holding.set()
            await self.release.wait()


@dataclass
class Replica:
    """One replica. Writes through `put` are its own; `write(replica.storage, ...)` is another replica's."""

    storage: Storage
    reader: FaultyReader
    bus: LocalBus
    tail: LogTail

    def following(self, follower: F) -> F:
        """The follower, subscribed to the log, as wiring does it."""
        self.tail.subscribe(follower)
        return follower

    async def put(self, ref: Ref, value: object) -> Commit:
        """A write of this replica, of which the tail hears at once."""
        commit = await write(self.storage, (ref, value))
        self.tail.on_commit(commit)
        return commit


class RecordingFollower:
    """A follower that records what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[Change]] = []
        self.resets: list[int] = []
        self._changed = asyncio.Event()

    def apply(self, changes: Sequence[Change]) -> None:
        self.batches.append(list(changes))
        self._changed.set()

    def reset(self, revision: int) -> None:
        self.resets.append(revision)
        self._changed.set()

    @property
    def revisions(self) -> list[int]:
        return [change.revision for batch in self.batches for change in batch]

    async def until(self, revision: int) -> None:
        """Returns when `revision` was seen or reset to. Does not wake the tail, which `wait_for` does."""
        while revision not in self.revisions + self.resets:
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def open_storage(folder: Path) -> AsyncIterator[Storage]:
    async with SqliteStorage(folder / "configsvc.db") as storage:
        yield storage


@asynccontextmanager
async def open_replica(storage: Storage, clock: Clock, bus: LocalBus | None = None) -> AsyncIterator[Replica]:
    reader = FaultyReader(storage)
    async with (
        bus or LocalBus() as opened,
        LogTail(log=reader, bus=opened, clock=clock, poll_seconds=POLL_SECONDS) as tail,
    ):
        yield Replica(storage, reader, opened, tail)
