"""How a watch opens: the snapshot, `Synced`, then changes."""

import asyncio
from dataclasses import replace

import pytest

from configsvc.app.watch import selector
from configsvc.app.watch.events import Changed, Snapshot, Synced
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.domain.records import Kind, Ref
from configsvc.errors import Unavailable
from tests.app.fake_clock import settle
from tests.app.replica import Replica, config, write
from tests.app.watch.watching import ALL, A, B, changes_in, open_snapshot, take

pytestmark = pytest.mark.timeout(60)


async def test_watch_opens_with_the_snapshot_then_synced_then_changes(replica: Replica, hub: WatchHub) -> None:
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
    assert changes_in([await anext(events)]) == [(4, "b", None)]


async def test_empty_state_is_synced_alone(hub: WatchHub) -> None:
    assert await anext(hub.watch(ALL, None)) == Synced(0)


async def test_all_watchers_share_one_event(replica: Replica, hub: WatchHub) -> None:
    watching = [hub.watch(ALL, None) for _ in range(3)]
    for events in watching:
        await open_snapshot(events)
    await replica.put(A, 1)
    first, second, third = [await anext(events) for events in watching]
    assert first is second is third


@pytest.mark.parametrize(
    ("selector", "expected"),
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
async def test_snapshot_replay_and_changes_match_the_selector(
    replica: Replica, hub: WatchHub, selector: Selector, expected: set[str]
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
    state, _ = await open_snapshot(events)
    assert {ref.key for ref in state} == expected
    for ref in refs:
        await replica.put(ref, 2)
    assert {key for _, key, _ in changes_in(await take(events, len(expected)))} == expected
    resumed = hub.watch(selector, 0)
    assert await anext(resumed) == Synced(0)
    assert [key for _, key, _ in changes_in(await take(resumed, 2 * len(expected)))] == 2 * [
        ref.key for ref in refs if ref.key in expected
    ]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in (events, resumed)]
    await settle()
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()


async def test_change_wakes_only_the_watchers_that_it_matches(replica: Replica, hub: WatchHub) -> None:
    watching = {name: hub.watch(replace(ALL, service=name), None) for name in ("svc", "other", "third")}
    for events in watching.values():
        await open_snapshot(events)
    waiting = {name: asyncio.ensure_future(anext(events)) for name, events in watching.items()}
    await settle()
    await replica.put(A, 1)
    await settle()
    assert {name for name, task in waiting.items() if task.done()} == {"svc"}
    for task in waiting.values():
        task.cancel()


async def test_large_snapshot_comes_in_pages(replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 4)
    refs = [config(f"key-{n:02}", service) for n in range(9) for service in ("", "svc")]
    await write(replica.storage, *((ref, 1) for ref in refs))
    events = hub.watch(ALL, None)
    parts = await take(events, 5)
    assert [record.ref for part in parts if isinstance(part, Snapshot) for record in part.records] == refs
    assert await anext(events) == Synced(1)


async def test_changes_between_the_pages_are_in_the_snapshot(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page shows revision 1, the others revision 4; `Synced` holds for all of them."""
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 2)
    await write(replica.storage, *((config(key), 1) for key in "abcdef"))
    events = hub.watch(ALL, None)
    await anext(events)
    await replica.put(A, 2)
    await replica.put(config("e"), 2)
    await replica.put(A, 3)
    state, synced = await open_snapshot(events)
    assert synced == 4
    assert {ref.key: value for ref, value in state.items()} == {"a": 3, "c": 1, "d": 1, "e": 2, "f": 1}
    await replica.put(B, 9)
    assert changes_in([await anext(events)]) == [(5, "b", 9)]


async def test_other_replicas_change_between_the_pages_is_in_the_snapshot(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is ahead of the tail then, and `Synced` waits for the tail."""
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 2)
    await replica.put(A, 1)
    await replica.put(B, 1)
    await replica.put(config("c"), 1)
    events = hub.watch(ALL, None)
    await anext(events)
    await write(replica.storage, (A, 2))
    assert await open_snapshot(events) == ({config("c"): 1, A: 2}, 4)


async def test_removal_between_the_pages_follows_synced_and_comes_again_on_resuming_there(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 2)
    await write(replica.storage, *((config(key), 1) for key in "abcd"))
    events = hub.watch(ALL, None)
    await anext(events)
    await replica.put(A, None)
    await replica.put(config("d"), 2)
    await replica.put(B, 2)
    state, synced = await open_snapshot(events)
    assert ({ref.key for ref in state}, synced) == ({"c", "d"}, 1)
    # The page with `d` was read after its change, so that change does not come again.
    assert changes_in(await take(events, 2)) == [(2, "a", None), (4, "b", 2)]
    resumed = hub.watch(ALL, synced)
    await anext(resumed)
    assert changes_in(await take(resumed, 3)) == [(2, "a", None), (3, "d", 2), (4, "b", 2)]


async def test_snapshot_ahead_of_the_tail_is_not_followed_by_changes_that_it_shows(
    replica: Replica, hub: WatchHub
) -> None:
    """A client that asks a lagging replica after a message must not end with the old value."""
    first = await write(replica.storage, (A, 1))
    second = await write(replica.storage, (A, 2))
    events = hub.watch(ALL, None)
    assert await open_snapshot(events) == ({A: 2}, 2)
    replica.tail.on_commit(first)
    replica.tail.on_commit(second)
    await replica.put(A, 3)
    assert changes_in([await anext(events)]) == [(3, "a", 3)]


async def test_opening_fails_if_the_store_is_down(replica: Replica, hub: WatchHub) -> None:
    await replica.put(A, 1)
    replica.reader.is_down = True
    with pytest.raises(Unavailable):
        await anext(hub.watch(ALL, None))
    with pytest.raises(Unavailable):
        await anext(hub.watch(ALL, 0))
    assert hub.watchers == 0
