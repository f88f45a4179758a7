"""What one watcher gets: the snapshot, the mark, changes, progress; resuming; its end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from configsvc.app.watch import selector, store_reads
from configsvc.app.watch.events import Changed, Progress, Snapshot, Synced, WatchEvent
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.domain.records import Kind, Ref
from configsvc.errors import ResourceExhausted, RevisionOutOfRange, Unavailable
from configsvc.storage.port import RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import POLL_SECONDS, Replica, config, open_replica, open_storage, write

pytestmark = pytest.mark.timeout(60)

Events = AsyncGenerator[WatchEvent, None]
ALL = Selector(Kind.CONFIG, "test")
PROGRESS_SECONDS = 10.0
A, B = config("a"), config("b")


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(tmp_path) as opened:
        yield opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def replica(storage: Storage, clock: FakeClock) -> AsyncIterator[Replica]:
    async with open_replica(storage, clock) as opened:
        yield opened


@pytest.fixture
async def hub(replica: Replica, clock: FakeClock) -> AsyncIterator[WatchHub]:
    opened = open_hub(replica, clock)
    yield opened
    opened.shutdown()


def open_hub(replica: Replica, clock: FakeClock, buffer_changes: int = 100, max_watchers: int = 100) -> WatchHub:
    return replica.following(
        WatchHub(
            tail=replica.tail,
            reader=replica.reader,
            log=replica.reader,
            clock=clock,
            buffer_changes=buffer_changes,
            progress_seconds=PROGRESS_SECONDS,
            max_watchers=max_watchers,
        )
    )


async def take(events: Events, number: int) -> list[WatchEvent]:
    return [await anext(events) for _ in range(number)]


async def opened(events: Events) -> tuple[dict[Ref, object], int]:
    """The values of the snapshot, and the revision of the mark after it."""
    state: dict[Ref, object] = {}
    while True:
        event = await anext(events)
        if isinstance(event, Synced):
            return state, event.revision
        assert isinstance(event, Snapshot)
        state.update((record.ref, record.body["value"]) for record in event.records)


def told(events: list[WatchEvent]) -> list[tuple[int, str, object]]:
    """Changes as (revision, key, value)."""
    return [
        (event.change.revision, event.change.ref.key, (event.change.after or {"value": None})["value"])
        for event in events
        if isinstance(event, Changed)
    ]


async def test_it_opens_with_the_snapshot_then_the_mark_then_changes(replica: Replica, hub: WatchHub) -> None:
    await replica.put(A, 1)
    await replica.put(B, 1)
    events = hub.watch(ALL, None)
    snapshot, synced = await take(events, 2)
    assert isinstance(snapshot, Snapshot)
    assert [record.ref for record in snapshot.records] == [A, B]
    assert synced == Synced(2)
    commit = await replica.put(A, 2)
    assert await anext(events) == Changed(commit.changes[0])
    await replica.put(B, None)
    assert told([await anext(events)]) == [(4, "b", None)]


async def test_an_empty_state_is_the_mark_alone(hub: WatchHub) -> None:
    assert await anext(hub.watch(ALL, None)) == Synced(0)


async def test_all_watchers_share_one_change(replica: Replica, hub: WatchHub) -> None:
    watching = [hub.watch(ALL, None) for _ in range(3)]
    for events in watching:
        await opened(events)
    await replica.put(A, 1)
    first, second, third = [await anext(events) for events in watching]
    assert first is second is third


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        (ALL, {"a", "ab", "b", "shared"}),
        (replace(ALL, service="svc"), {"a", "ab", "b"}),
        (replace(ALL, service=""), {"shared"}),
        (replace(ALL, prefix="a"), {"a", "ab"}),
        (replace(ALL, keys=frozenset({"ab", "b", "zz"})), {"ab", "b"}),
        (replace(ALL, keys=frozenset({"ab", "b"}), prefix="b", service="svc"), {"b"}),
        (replace(ALL, environment="prod"), {"prod"}),
        (Selector(Kind.FLAG, "test"), {"flag"}),
        (Selector(Kind.INSTANCE, "", "svc"), {"instance"}),
    ],
)
async def test_snapshot_replay_and_changes_are_of_what_was_selected(
    replica: Replica, hub: WatchHub, selector: Selector, wanted: set[str]
) -> None:
    refs = [
        A,
        config("ab"),
        B,
        config("shared", service=""),
        config("prod", environment="prod"),
        Ref(Kind.FLAG, "test", "", "flag"),
        Ref(Kind.INSTANCE, "", "svc", "instance"),
        Ref(Kind.INSTANCE, "", "other", "instance-of-other"),
    ]
    for ref in refs:
        await replica.put(ref, 1)
    events = hub.watch(selector, None)
    state, _ = await opened(events)
    assert {ref.key for ref in state} == wanted
    for ref in refs:
        await replica.put(ref, 2)
    assert {key for _, key, _ in told(await take(events, len(wanted)))} == wanted
    resumed = hub.watch(selector, 0)
    assert await anext(resumed) == Synced(0)
    assert [key for _, key, _ in told(await take(resumed, 2 * len(wanted)))] == 2 * [
        ref.key for ref in refs if ref.key in wanted
    ]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in (events, resumed)]
    await settle()
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()


async def test_a_change_wakes_only_those_whom_it_concerns(replica: Replica, hub: WatchHub) -> None:
    watching = {name: hub.watch(replace(ALL, service=name), None) for name in ("svc", "other", "third")}
    for events in watching.values():
        await opened(events)
    waiting = {name: asyncio.ensure_future(anext(events)) for name, events in watching.items()}
    await settle()
    await replica.put(A, 1)
    await settle()
    assert {name for name, task in waiting.items() if task.done()} == {"svc"}
    for task in waiting.values():
        task.cancel()


async def test_a_large_state_comes_in_parts(replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 4)
    refs = [config(f"key-{n:02}", service) for n in range(9) for service in ("", "svc")]
    await write(replica.storage, *((ref, 1) for ref in refs))
    events = hub.watch(ALL, None)
    parts = await take(events, 5)
    assert [record.ref for part in parts if isinstance(part, Snapshot) for record in part.records] == refs
    assert await anext(events) == Synced(1)


async def test_what_is_written_between_the_parts_is_in_the_snapshot(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part shows revision 1, the others revision 4; the mark is true for all of them."""
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 2)
    await write(replica.storage, *((config(key), 1) for key in "abcdef"))
    events = hub.watch(ALL, None)
    await anext(events)
    await replica.put(A, 2)
    await replica.put(config("e"), 2)
    await replica.put(A, 3)
    state, synced = await opened(events)
    assert synced == 4
    assert {ref.key: value for ref, value in state.items()} == {"a": 3, "c": 1, "d": 1, "e": 2, "f": 1}
    await replica.put(B, 9)
    assert told([await anext(events)]) == [(5, "b", 9)]


async def test_another_replicas_write_between_the_parts_is_in_the_snapshot(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is ahead of the tail then, and the mark waits for the tail."""
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 2)
    await replica.put(A, 1)
    await replica.put(B, 1)
    await replica.put(config("c"), 1)
    events = hub.watch(ALL, None)
    await anext(events)
    await write(replica.storage, (A, 2))
    assert await opened(events) == ({config("c"): 1, A: 2}, 4)


async def test_a_removal_between_the_parts_follows_the_mark_and_is_not_missed_by_who_resumes_there(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 2)
    await write(replica.storage, *((config(key), 1) for key in "abcd"))
    events = hub.watch(ALL, None)
    await anext(events)
    await replica.put(A, None)
    await replica.put(config("d"), 2)
    await replica.put(B, 2)
    state, synced = await opened(events)
    assert ({ref.key for ref in state}, synced) == ({"c", "d"}, 1)
    # `d` was in the part read after it changed: that change does not come again.
    assert told(await take(events, 2)) == [(2, "a", None), (4, "b", 2)]
    resumed = hub.watch(ALL, synced)
    await anext(resumed)
    assert told(await take(resumed, 3)) == [(2, "a", None), (3, "d", 2), (4, "b", 2)]


async def test_a_snapshot_ahead_of_the_tail_is_not_followed_by_what_it_has(replica: Replica, hub: WatchHub) -> None:
    """The client is told by a message, asks a replica that lags, and must not end with the old value."""
    first = await write(replica.storage, (A, 1))
    second = await write(replica.storage, (A, 2))
    events = hub.watch(ALL, None)
    assert await opened(events) == ({A: 2}, 2)
    replica.tail.on_commit(first)
    replica.tail.on_commit(second)
    await replica.put(A, 3)
    assert told([await anext(events)]) == [(3, "a", 3)]


async def test_resuming_replays_every_change_in_order_and_goes_on_live(replica: Replica, hub: WatchHub) -> None:
    for value in range(1, store_reads.CATCH_UP_CHANGES * 2 + 20):
        await write(replica.storage, (A, value))
    last = store_reads.CATCH_UP_CHANGES * 2 + 19
    await replica.tail.wait_for(last, None)
    events = hub.watch(ALL, 5)
    assert await anext(events) == Synced(5)
    replayed = await take(events, last - 6)
    await replica.put(A, last + 1)
    assert told(replayed + await take(events, 2)) == [(n, "a", n) for n in range(6, last + 2)]


async def test_resuming_at_the_head_asks_nothing_of_the_store(replica: Replica, hub: WatchHub) -> None:
    """All clients come back at once after a disconnection."""
    await replica.put(A, 1)
    await settle()
    before = (replica.reader.states, replica.reader.reads, replica.reader.pages)
    events = hub.watch(ALL, 1)
    assert await anext(events) == Synced(1)
    await replica.put(A, 2)
    assert told([await anext(events)]) == [(2, "a", 2)]
    assert (replica.reader.states, replica.reader.reads, replica.reader.pages) == before


async def test_a_replica_that_lags_does_not_refuse_what_the_log_has(replica: Replica, hub: WatchHub) -> None:
    commits = [await write(replica.storage, (A, value)) for value in (1, 2, 3, 4)]
    at_two, at_four = hub.watch(ALL, 2), hub.watch(ALL, 4)
    assert await anext(at_two) == Synced(2)
    assert await anext(at_four) == Synced(4)
    for commit in commits:
        replica.tail.on_commit(commit)
    await replica.put(A, 5)
    assert told(await take(at_two, 3)) == [(3, "a", 3), (4, "a", 4), (5, "a", 5)]
    assert told(await take(at_four, 1)) == [(5, "a", 5)]


async def test_a_future_revision_is_refused(replica: Replica, hub: WatchHub) -> None:
    await replica.put(A, 1)
    with pytest.raises(RevisionOutOfRange) as caught:
        await anext(hub.watch(ALL, 2))
    assert caught.value.metadata == {"oldest_revision": "0", "current_revision": "1"}
    assert "not happened" in caught.value.message
    assert hub.watchers == 0


async def test_a_compacted_revision_is_refused_with_the_oldest_one_kept(replica: Replica, hub: WatchHub) -> None:
    for value in range(10):
        await replica.put(A, value)
    assert await replica.storage.compact(RetentionPolicy(4)) == 6
    with pytest.raises(RevisionOutOfRange) as caught:
        await anext(hub.watch(ALL, 5))
    assert caught.value.metadata == {"oldest_revision": "6", "current_revision": "10"}
    assert "compacted" in caught.value.message
    events = hub.watch(ALL, 6)
    await anext(events)
    assert told(await take(events, 4)) == [(7, "a", 6), (8, "a", 7), (9, "a", 8), (10, "a", 9)]


async def test_falling_behind_compaction_during_the_replay_is_told(replica: Replica, hub: WatchHub) -> None:
    last = store_reads.CATCH_UP_CHANGES * 2
    for value in range(last):
        await write(replica.storage, (A, value))
    await replica.tail.wait_for(last, None)
    events = hub.watch(ALL, 0)
    await take(events, 3)
    await replica.storage.compact(RetentionPolicy(5))
    with pytest.raises(RevisionOutOfRange) as caught:
        await take(events, last)
    assert caught.value.metadata == {"oldest_revision": str(last - 5), "current_revision": str(last)}


async def test_a_gap_in_the_tail_is_an_error_only_for_those_who_missed_something(
    replica: Replica, hub: WatchHub, clock: FakeClock
) -> None:
    """The replica was cut off from its database for so long that the log was compacted meanwhile."""
    watching = hub.watch(ALL, None)
    await opened(watching)
    await clock.asleep(2)
    for value in range(10):
        await write(replica.storage, (A, value))
    await replica.storage.compact(RetentionPolicy(2))
    await clock.advance(POLL_SECONDS)
    with pytest.raises(RevisionOutOfRange):
        await anext(watching)
    events = hub.watch(ALL, 9)
    await anext(events)
    assert told([await anext(events)]) == [(10, "a", 9)]


async def test_an_idle_watcher_is_told_how_far_the_state_is(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    """Else it would resume at an old revision, long compacted, though nothing it watches has changed."""
    events = hub.watch(replace(ALL, service="other"), None)
    await opened(events)
    waiting = asyncio.ensure_future(anext(events))
    await replica.put(A, 1)
    await replica.put(A, 2)
    await clock.advance(PROGRESS_SECONDS - 0.1)
    assert not waiting.done()
    await clock.advance(0.2)
    assert await waiting == Progress(2)
    await replica.put(A, 3)
    await clock.advance(PROGRESS_SECONDS)
    assert await anext(events) == Progress(3)


async def test_a_watcher_that_gets_changes_gets_no_progress(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    events = hub.watch(ALL, None)
    await opened(events)
    for value in range(1, 10):
        await clock.advance(PROGRESS_SECONDS * 0.9)
        await replica.put(A, value)
        assert told([await anext(events)]) == [(value, "a", value)]


async def test_progress_never_comes_before_an_event_that_it_covers(
    replica: Replica, hub: WatchHub, clock: FakeClock
) -> None:
    events = hub.watch(ALL, None)
    await opened(events)
    waiting = asyncio.ensure_future(anext(events))
    await clock.advance(PROGRESS_SECONDS)
    assert await waiting == Progress(0)
    await replica.put(A, 1)
    await replica.put(A, 2)
    await clock.advance(PROGRESS_SECONDS * 5)
    assert told(await take(events, 2)) == [(1, "a", 1), (2, "a", 2)]
    await clock.advance(PROGRESS_SECONDS)
    await replica.put(A, 3)
    progress, change = await take(events, 2)
    assert progress == Progress(2)
    assert told([change]) == [(3, "a", 3)]


async def test_progress_never_goes_back_on_a_replica_that_lags(
    replica: Replica, hub: WatchHub, clock: FakeClock
) -> None:
    await clock.asleep()
    for value in range(1, 4):
        await write(replica.storage, (A, value))
    events = hub.watch(ALL, 3)
    assert await anext(events) == Synced(3)
    replica.reader.is_down = True
    waiting = asyncio.ensure_future(anext(events))
    await clock.advance(PROGRESS_SECONDS)
    assert replica.tail.applied == 0
    assert await waiting == Progress(3)


async def test_no_progress_before_the_mark(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    await replica.put(A, 1)
    replica.reader.release = asyncio.Event()
    events = hub.watch(ALL, None)
    opening = asyncio.ensure_future(anext(events))
    await replica.reader.is_holding.wait()
    await clock.advance(PROGRESS_SECONDS * 3)
    replica.reader.release.set()
    assert isinstance(await opening, Snapshot)
    assert await anext(events) == Synced(1)


async def test_closing_a_watch_unregisters_it(hub: WatchHub) -> None:
    events = hub.watch(ALL, None)
    assert hub.watchers == 0
    await anext(events)
    assert hub.watchers == 1
    await events.aclose()
    assert hub.watchers == 0
    waiting = asyncio.ensure_future(take(hub.watch(ALL, None), 2))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await settle()
    assert hub.watchers == 0


async def test_too_many_watches_are_refused(replica: Replica, clock: FakeClock) -> None:
    hub = open_hub(replica, clock, max_watchers=2)
    first, second = hub.watch(ALL, None), hub.watch(ALL, None)
    await anext(first)
    await anext(second)
    with pytest.raises(ResourceExhausted) as caught:
        await anext(hub.watch(ALL, None))
    assert caught.value.reason == "TOO_MANY_WATCHES"
    await first.aclose()
    assert await anext(hub.watch(ALL, None)) == Synced(0)


async def test_shutting_down_ends_every_watch_and_refuses_new_ones(replica: Replica, hub: WatchHub) -> None:
    idle, busy, opening = hub.watch(ALL, None), hub.watch(ALL, None), hub.watch(ALL, None)
    for events in (idle, busy):
        await opened(events)
    waiting = asyncio.ensure_future(anext(idle))
    replica.reader.release = asyncio.Event()
    at_the_store = asyncio.ensure_future(anext(opening))
    await replica.reader.is_holding.wait()
    await replica.put(A, 1)
    await replica.put(A, 2)
    await waiting
    waiting = asyncio.ensure_future(anext(idle))
    hub.shutdown()
    replica.reader.release.set()
    for ended in (waiting, at_the_store, anext(busy), anext(hub.watch(ALL, None))):
        with pytest.raises(Unavailable) as caught:
            await ended
        assert caught.value.reason == "SHUTTING_DOWN"
    assert hub.watchers == 0


async def test_a_store_that_is_away_fails_the_opening(replica: Replica, hub: WatchHub) -> None:
    await replica.put(A, 1)
    replica.reader.is_down = True
    with pytest.raises(Unavailable):
        await anext(hub.watch(ALL, None))
    with pytest.raises(Unavailable):
        await anext(hub.watch(ALL, 0))
    assert hub.watchers == 0
