"""An older copy is restored under a replica: what the readers of the log do, with real storage and a fake clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from configsvc.app.changelog.shared_checkpoint import SharedCheckpoint
from configsvc.app.changelog.tail import LogTail
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.app.flags.sets import FlagSets
from configsvc.app.watch.events import Synced
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.bus.local import LocalBus
from configsvc.cache.local import LocalCache
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint
from configsvc.domain.records import AtRevision, Kind
from configsvc.errors import RevisionOutOfRange, Unavailable
from configsvc.storage.port import Storage
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import POLL_SECONDS, RecordingFollower, config, write
from tests.conformance.storage.databases import Database, sqlite_database

pytestmark = pytest.mark.timeout(120)

A, B = config("a"), config("b")


@dataclass
class Position:
    """A `LogPosition` that a test sets."""

    applied: int = 0
    history: str = ""
    since: int = 0
    stale_since: datetime | None = None


@dataclass
class World:
    """A database that can be put back, one replica's readers of its log, and a cache that outlives them."""

    database: Database
    storage: Storage
    clock: FakeClock
    cache: LocalCache
    tail: LogTail

    async def look(self) -> None:
        """Returns when the tail has come to the end of the log that is there."""
        while True:
            await self.tail.catch_up()
            state = await self.storage.state()
            if (self.tail.history, self.tail.applied) == (state.history, state.head):
                return

    async def put(self, *values: tuple[object, object]) -> Checkpoint:
        """One write by another replica for each; where the log ends then."""
        for ref, value in values:
            await write(self.storage, (ref, value))  # type: ignore[arg-type]
        return (await self.storage.state()).end


@asynccontextmanager
async def opened(database: Database, cache: LocalCache, clock: FakeClock) -> AsyncIterator[World]:
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
        yield World(database, storage, clock, cache, tail)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return sqlite_database(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(clock: FakeClock) -> LocalCache:
    return LocalCache(1 << 20, clock)


@pytest.fixture
async def world(database: Database, cache: LocalCache, clock: FakeClock) -> AsyncIterator[World]:
    async with opened(database, cache, clock) as found:
        yield found


@pytest.fixture
async def restore(world: World) -> Callable[[], None]:
    """Puts back a copy in which A is 1, under a replica that knows it as 2, and a B that the copy lacks."""
    await world.put((A, 1))
    restore = world.database.back_up()
    await world.put((A, 2), (B, 2))
    await world.look()
    return restore


async def test_everyone_reloads_at_the_new_history_above_all_that_was_seen(
    world: World, restore: Callable[[], None]
) -> None:
    seen = RecordingFollower()
    world.tail.subscribe(seen)
    before = world.tail.checkpoint
    restore()
    await world.look()
    state = await world.storage.state()
    assert (world.tail.history, world.tail.applied) == (state.history, state.head)
    assert state.history != before.history
    assert seen.resets == [state.since] == [before.revision + LEAP_REVISIONS]
    origin = await world.storage.history_origin()
    assert origin.reason == f"the log ended at revision 1, and {before.revision} had been seen"
    # It goes on from there.
    await world.put((A, 3))
    await world.look()
    assert seen.revisions == [state.since + 1]


async def test_it_is_noticed_after_the_copy_has_grown_beyond_what_was_seen(
    world: World, restore: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = world.tail.checkpoint
    restore()
    await world.storage.__aexit__(None, None, None)
    async with world.database.open() as other:
        # By a process that has seen nothing, and on a clock that has gone on.
        for value in range(10):
            await write(other, (B, {"other": value}))
    await world.storage.__aenter__()
    await world.look()
    assert world.tail.history != before.history
    assert world.tail.applied == 11 + LEAP_REVISIONS
    assert "the log said something else than was seen at revision 3" in caplog.text
    assert "configsvc new-history" in caplog.text


async def test_a_write_before_anyone_has_noticed_is_refused_and_has_it_noticed(
    world: World, restore: Callable[[], None]
) -> None:
    restore()
    with pytest.raises(Unavailable) as caught:
        await write(world.storage, (B, 3))
    assert caught.value.reason == "LOG_DIVERGED"
    await world.look()
    assert (await world.put((B, 3))).history == world.tail.history


async def test_an_operators_new_history_is_taken_over(world: World, restore: Callable[[], None]) -> None:
    restore()
    marked = await world.storage.new_history("an operator's", leap=10)
    await world.look()
    assert (world.tail.history, world.tail.applied) == (marked.history, marked.head)
    assert await world.storage.state() == marked


async def test_near_records_are_of_the_log_that_is(world: World, restore: Callable[[], None]) -> None:
    near = NearCache(reader=world.storage, tail=world.tail, max_entries=100)
    world.tail.subscribe(near)
    lost = (await near.get([A, B])).records
    assert [record.body["value"] for record in lost.values()] == [2, 2]
    restore()
    await world.look()
    found = await near.get([A, B])
    assert {ref: record.body["value"] for ref, record in found.records.items()} == {A: 1}
    # The same write again: version and revision could meet, the etag can't.
    await world.put((A, 2))
    await world.look()
    again = (await near.get([A])).records[A]
    assert (again.version, again.body) == (lost[A].version, lost[A].body)
    assert again.etag != lost[A].etag


async def test_a_record_that_was_read_of_another_history_is_not_kept(world: World, restore: Callable[[], None]) -> None:
    near = NearCache(reader=world.storage, tail=world.tail, max_entries=100)
    world.tail.subscribe(near)
    restore()
    await world.storage.new_history("an operator's")
    # Before the tail has looked.
    view = await near.get([A])
    assert (view.records[A].body["value"], len(near)) == (1, 0)
    await world.look()
    assert len(near) == 0


class TestWatches:
    SELECTOR = Selector(Kind.CONFIG, "test")

    @pytest.fixture
    def hub(self, world: World) -> WatchHub:
        opened = WatchHub(
            tail=world.tail, reader=world.storage, log=world.storage, clock=world.clock, buffer_changes=10,
            progress_seconds=10,
        )  # fmt: skip
        world.tail.subscribe(opened)
        return opened

    async def refused(self, hub: WatchHub, after: int, history: str = "") -> str:
        with pytest.raises(RevisionOutOfRange) as caught:
            await anext(hub.watch(self.SELECTOR, after, history))
        return caught.value.reason

    async def test_end_where_the_log_gets_another_history(
        self, world: World, hub: WatchHub, restore: Callable[[], None]
    ) -> None:
        watches = [hub.watch(self.SELECTOR, None), hub.watch(self.SELECTOR, world.tail.applied)]
        for watch in watches:
            async for event in watch:
                if isinstance(event, Synced):
                    break
        restore()
        await world.look()
        for watch in watches:
            with pytest.raises(RevisionOutOfRange) as caught:
                await anext(watch)
            assert caught.value.reason == "HISTORY_CHANGED"
            assert caught.value.metadata["history"] == world.tail.history

    async def test_resume_in_their_own_history_alone(
        self, world: World, hub: WatchHub, restore: Callable[[], None]
    ) -> None:
        before = world.tail.checkpoint
        restore()
        await world.look()
        for revision in (1, before.revision, world.tail.applied):
            assert await self.refused(hub, revision, before.history) == "HISTORY_CHANGED"
        # Who does not say it: neither a revision that is lost, nor one of the common past, which looks like it.
        for revision in (0, 1, before.revision, world.tail.since - 1):
            assert await self.refused(hub, revision) == "HISTORY_CHANGED"
        here = world.tail.applied
        await world.put((A, 3))
        await world.look()
        for history in ("", world.tail.history):
            watch = hub.watch(self.SELECTOR, here, history)
            assert await anext(watch) == Synced(here)
            assert (await anext(watch)).change.after == {"value": 3}  # type: ignore[union-attr]
            await watch.aclose()

    async def test_with_a_history_that_another_replica_has_told_of_wait_for_it(
        self, world: World, hub: WatchHub, restore: Callable[[], None]
    ) -> None:
        restore()
        marked = await world.storage.new_history("by another", leap=10)
        watch = hub.watch(self.SELECTOR, marked.head, marked.history)
        assert await anext(watch) == Synced(marked.head)
        await watch.aclose()


class TestMark:
    """What the shared cache remembers outlives every replica."""

    async def test_a_fresh_replica_finds_that_the_log_is_behind_it(
        self, database: Database, cache: LocalCache, clock: FakeClock
    ) -> None:
        async with opened(database, cache, clock) as world:
            await world.put((A, 1))
            restore = database.back_up()
            lost = await world.put((A, 2), (B, 2))
            await world.look()
            await left(SharedCheckpoint(cache, clock), lost, clock)
        restore()
        async with opened(database, cache, clock) as world:
            assert world.tail.history != lost.history
            assert world.tail.applied == lost.revision + LEAP_REVISIONS
            await left(SharedCheckpoint(cache, clock), world.tail.checkpoint, clock)
        # And once more from the same copy, which is of the first history again.
        restore()
        async with opened(database, cache, clock) as world:
            assert world.tail.applied > lost.revision + LEAP_REVISIONS

    async def test_a_replica_that_could_not_read_the_mark_compares_when_it_can(
        self, database: Database, cache: LocalCache, clock: FakeClock
    ) -> None:
        async with opened(database, cache, clock) as world:
            here = await world.put((A, 1))
            await world.look()
            assert world.tail.checkpoint == here
            mark = Checkpoint(here.history, 50, "0" * 32)
            await other_mark(cache, mark)
            while world.tail.history == here.history:
                await clock.advance(1)
                await world.look()
            assert world.tail.applied == 50 + LEAP_REVISIONS

    async def test_nobody_remembers_without_one(self, database: Database, clock: FakeClock) -> None:
        """Then the operator has to say it: `configsvc new-history`."""
        async with database.open() as storage:
            here = (await storage.state()).history
            restore = database.back_up()
            await write(storage, (A, 1))
        restore()
        async with opened(database, LocalCache(1 << 20, clock), clock) as world:
            assert (world.tail.history, world.tail.applied) == (here, 0)


async def left(mark: SharedCheckpoint, point: Checkpoint, clock: FakeClock) -> None:
    """Returns when a replica has left this mark."""
    while await mark.get() != point:
        await clock.advance(1)
        await settle()


async def other_mark(cache: LocalCache, point: Checkpoint) -> None:
    """Another replica's mark."""
    other = SharedCheckpoint(cache, FakeClock())
    other.advance(point)

    async def ignored(_: Checkpoint) -> None:
        """Nothing is beyond it."""

    task = asyncio.create_task(other.exchange(ignored))
    while await other.get() != point:
        await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_copies_lie_under_the_history_and_are_not_found_under_another(
    cache: LocalCache, clock: FakeClock
) -> None:
    log = Position(history="one")
    async with FallbackCache(cache, clock, timedelta(days=1), log=log) as fallback_cache:
        await fallback_cache.put_if_absent([FallbackEntry("k", 5, lambda: "lost")])
        fallback_cache.put(FallbackEntry("late", 5, lambda: "lost"))
        log.history = "two"
        assert await fallback_cache.get(["k"]) == {}
        # A lower revision of the later history is not kept out by the higher one.
        assert await fallback_cache.put_if_absent([FallbackEntry("k", 3, lambda: "found")]) == {
            "k": AtRevision("found", 3)
        }
        await settle()
        assert await fallback_cache.get(["late"]) == {}


async def test_flag_set_of_an_earlier_history_is_not_served(world: World) -> None:
    sets = FlagSets(reader=world.storage, tail=world.tail)
    world.tail.subscribe(sets)
    flag_set = await sets.get("test")
    assert await sets.get("test") is flag_set
    await world.storage.new_history("an operator's")
    await world.look()
    assert await sets.get("test") is not flag_set
