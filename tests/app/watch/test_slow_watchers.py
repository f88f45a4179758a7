"""Slow watchers and many watchers: a slow one delays nobody else."""

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

import pytest

from configsvc.app.watch import selector
from configsvc.app.watch.events import Changed, Progress, Synced
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.app.watch.store_reads import CATCH_UP_CHANGES
from configsvc.domain.records import Kind
from configsvc.errors import RevisionOutOfRange
from configsvc.storage.port import RetentionPolicy
from tests.app.fake_clock import FakeClock
from tests.app.replica import Replica, config, write
from tests.app.watch.watching import ALL, PROGRESS_SECONDS, A, B, Events, changes_in, open_hub, open_snapshot, take

pytestmark = pytest.mark.timeout(60)

BUFFER_CHANGES = 5


@pytest.fixture
async def hub(replica: Replica, clock: FakeClock) -> AsyncIterator[WatchHub]:
    opened = open_hub(replica, clock, BUFFER_CHANGES, max_watchers=2_000)
    yield opened
    opened.shutdown()


async def synced(hub: WatchHub, selector: Selector = ALL) -> Events:
    events = hub.watch(selector, None)
    await open_snapshot(events)
    return events


async def test_every_change_is_sent_while_the_buffer_has_room(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    for value in range(1, BUFFER_CHANGES + 1):
        await replica.put(A, value)
    assert changes_in(await take(events, BUFFER_CHANGES)) == [(n, "a", n) for n in range(1, BUFFER_CHANGES + 1)]
    assert hub.conflated == 0


async def test_full_buffer_drops_a_change_only_for_a_newer_one_of_the_same_key(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    for value in range(1, 101):
        await replica.put(A, value)
        await replica.put(B, -value)
    assert changes_in(await take(events, 2)) == [(199, "a", 100), (200, "b", -100)]
    assert hub.conflated == 198
    await replica.put(A, 101)
    assert changes_in(await take(events, 1)) == [(201, "a", 101)]
    await events.aclose()
    assert hub.conflated == 198


async def test_conflated_changes_stay_in_the_order_of_revision(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    for key in "abcabcabacb":
        await replica.put(config(key), key)
    assert changes_in(await take(events, 3)) == [(9, "a", "a"), (10, "c", "c"), (11, "b", "b")]


async def test_previous_state_in_a_conflated_change_is_that_of_the_version_before(
    replica: Replica, hub: WatchHub
) -> None:
    events = await synced(hub)
    for value in range(1, 21):
        await replica.put(A, value)
    (event,) = await take(events, 1)
    assert isinstance(event, Changed)
    assert (event.change.before, event.change.before_revision) == ({"value": 19}, 19)


async def test_removal_is_sent_although_the_creation_was_conflated(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    for value in range(1, 11):
        await replica.put(A, value)
    await replica.put(B, 1)
    await replica.put(B, None)
    assert changes_in(await take(events, 2)) == [(10, "a", 10), (12, "b", None)]


async def test_every_change_is_sent_again_after_the_overflow_was_taken(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    for value in range(20):
        await replica.put(A, value)
    await take(events, 1)
    for value in range(BUFFER_CHANGES):
        await replica.put(A, value)
    assert [revision for revision, _, _ in changes_in(await take(events, BUFFER_CHANGES))] == [21, 22, 23, 24, 25]


async def test_changes_of_more_keys_than_the_buffer_holds_are_read_from_the_log(
    replica: Replica, hub: WatchHub
) -> None:
    events = await synced(hub)
    expected = []
    for number in range(CATCH_UP_CHANGES + 50):
        commit = await replica.put(config(f"key-{number}"), number)
        expected.append((commit.revision, f"key-{number}", number))
    first = await take(events, 10)
    commit = await replica.put(A, 1)
    assert changes_in(first + await take(events, len(expected) - 9)) == [*expected, (commit.revision, "a", 1)]
    assert replica.reader.reads > 0


async def test_batch_that_overflows_the_buffer_is_sent_as_a_whole(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    await replica.put(A, 0)
    refs = [config(f"key-{n}") for n in range(BUFFER_CHANGES * 3)]
    replica.tail.on_commit(await write(replica.storage, *((ref, 1) for ref in refs)))
    assert changes_in(await take(events, len(refs) + 1)) == [(1, "a", 0), *((2, ref.key, 1) for ref in refs)]


async def test_batch_that_was_partly_taken_is_neither_repeated_nor_cut(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    refs = [config(f"key-{n}") for n in range(BUFFER_CHANGES)]
    replica.tail.on_commit(await write(replica.storage, *((ref, 1) for ref in refs)))
    first = await take(events, 2)
    for number in range(BUFFER_CHANGES * 2):
        await replica.put(config(f"more-{number}"), 2)
    rest = await take(events, len(refs) - 2 + BUFFER_CHANGES * 2)
    assert [key for _, key, _ in changes_in(first + rest)] == [
        *(ref.key for ref in refs),
        *(f"more-{number}" for number in range(BUFFER_CHANGES * 2)),
    ]


async def test_client_that_takes_its_snapshot_slowly_gets_the_rest_from_the_log(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer overflows between the pages. A change that a later page shows does not come again."""
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 2)
    await write(replica.storage, *((config(key), 1) for key in "abcd"))
    events = hub.watch(ALL, None)
    await anext(events)
    await replica.put(config("d"), 2)
    for number in range(BUFFER_CHANGES * 2):
        await replica.put(config(f"b{number}"), 2)
    await replica.put(A, None)
    state, revision = await open_snapshot(events)
    assert state[config("d")] == 2
    assert revision == 1
    rest = changes_in(await take(events, 1))
    assert rest == [(BUFFER_CHANGES * 2 + 3, "a", None)]


async def test_slow_watcher_ends_if_its_changes_were_compacted_away(replica: Replica, hub: WatchHub) -> None:
    events = await synced(hub)
    for number in range(50):
        await replica.put(config(f"key-{number}"), number)
    await replica.storage.compact(RetentionPolicy(5))
    with pytest.raises(RevisionOutOfRange) as caught:
        await anext(events)
    assert caught.value.metadata == {"oldest_revision": "45", "current_revision": "50"}


async def test_progress_waits_for_a_slow_watcher(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    events = await synced(hub)
    waiting = asyncio.ensure_future(anext(events))
    for number in range(50):
        await replica.put(config(f"key-{number}"), number)
        await clock.advance(PROGRESS_SECONDS)
    got = [await waiting, *await take(events, 49)]
    assert [revision for revision, _, _ in changes_in(got)] == list(range(1, 51))
    following = asyncio.ensure_future(anext(events))
    await clock.advance(PROGRESS_SECONDS)
    assert await following == Progress(50)


async def test_slow_watcher_delays_neither_other_watchers_nor_writers(replica: Replica, hub: WatchHub) -> None:
    """The slow watchers take nothing at all until the end."""
    slow = [await synced(hub) for _ in range(20)]
    quick = await synced(hub)
    for value in range(1, 201):
        await replica.put(config(f"key-{value}"), value)
        assert changes_in([await anext(quick)]) == [(value, f"key-{value}", value)]
        assert replica.tail.applied == value
    for events in slow:
        assert [revision for revision, _, _ in changes_in(await take(events, 200))] == list(range(1, 201))


async def test_stuck_watcher_holds_no_more_than_its_buffer(replica: Replica, hub: WatchHub) -> None:
    """Not even the removals of many different keys, such as instances with new ids."""
    await synced(hub)
    stuck = next(iter(hub._watchers))
    for number in range(100):
        await replica.put(config(f"key-{number}"), number)
        await replica.put(config(f"key-{number}"), None)
        assert len(list(stuck.backlog)) <= BUFFER_CHANGES


async def test_thousand_watchers_get_a_change(replica: Replica, hub: WatchHub) -> None:
    watching = [await synced(hub) for _ in range(1_000)]
    others = [await synced(hub, Selector(Kind.CONFIG, "other")) for _ in range(500)]
    waiting = [asyncio.ensure_future(anext(events)) for events in watching]
    idle = [asyncio.ensure_future(anext(events)) for events in others]
    await asyncio.sleep(0)
    commit = await replica.put(A, 1)
    assert await asyncio.gather(*waiting) == [Changed(commit.changes[0])] * 1_000
    assert not any(task.done() for task in idle)
    for task in idle:
        task.cancel()


async def test_thousand_clients_resume_at_once_while_writers_write(replica: Replica, hub: WatchHub) -> None:
    """As after a restart: each resumes at its revision, and the writers are not starved."""
    for value in range(1, 31):
        await write(replica.storage, (A, value))
    await replica.tail.wait_for(30, None)
    watching = [hub.watch(ALL, after % 30) for after in range(1_000)]

    async def resume(events: Events, after: int) -> None:
        assert await anext(events) == Synced(after)
        assert [revision for revision, _, _ in changes_in(await take(events, 30 - after))] == list(range(after + 1, 31))

    began = perf_counter()
    resuming = asyncio.gather(*(resume(events, after % 30) for after, events in enumerate(watching)))
    for value in range(10):
        await write(replica.storage, (B, value))
        assert perf_counter() - began < 30
    await resuming
