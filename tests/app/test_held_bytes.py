"""What is held in memory is bounded in bytes, whatever the number of changes or values."""

import json
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.app import fallback_cache
from configsvc.app.changelog.early_commits import MAX_BYTES, EarlyCommits
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.app.watch.backlog import Backlog
from configsvc.app.watch.events import Changed
from configsvc.app.watch.hub import WatchHub
from configsvc.cache.local import LocalCache
from configsvc.domain.records import Change, Commit, Ref
from configsvc.domain.sizes import held_bytes
from tests.app.changelog.memory_publisher import change
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import Replica, config, write
from tests.app.watch.test_hub import ALL, A, B, opened, take, told

pytestmark = pytest.mark.timeout(60)

LARGE = 100_000


def sized(made: Change, size: int) -> Change:
    return replace(made, after_bytes=size)


def open_hub(replica: Replica, buffer_bytes: int) -> WatchHub:
    return replica.following(WatchHub(
        tail=replica.tail, reader=replica.storage, log=replica.storage, clock=FakeClock(), buffer_changes=1_000,
        buffer_bytes=buffer_bytes, progress_seconds=60,
    ))  # fmt: skip


async def test_large_changes_of_one_key_are_conflated_before_there_are_many(replica: Replica) -> None:
    hub = open_hub(replica, 5 * LARGE)
    events = hub.watch(ALL, None)
    await opened(events)
    for number in range(50):
        await replica.put(A, f"{number:0{LARGE}}")
    await replica.put(B, 1)
    (watcher,) = hub._watchers
    assert sum(event.change.held_bytes for event in watcher.backlog) <= 5 * LARGE
    assert told(await take(events, 2)) == [(50, "a", f"{49:0{LARGE}}"), (51, "b", 1)]
    await events.aclose()
    hub.shutdown()


async def test_large_changes_of_many_keys_come_from_the_log_and_none_is_lost(replica: Replica) -> None:
    hub = open_hub(replica, 5 * LARGE)
    events = hub.watch(ALL, None)
    await opened(events)
    for number in range(50):
        await replica.put(config(f"key-{number}"), f"{number:0{LARGE}}")
    (watcher,) = hub._watchers
    assert not watcher.backlog
    assert [key for _, key, _ in told(await take(events, 50))] == [f"key-{number}" for number in range(50)]
    await events.aclose()
    hub.shutdown()


async def test_a_change_above_the_bound_is_told_without_a_read_of_the_log(replica: Replica) -> None:
    hub = open_hub(replica, 10)
    events = hub.watch(ALL, None)
    await opened(events)
    await replica.put(A, "x" * LARGE)
    (watcher,) = hub._watchers
    assert not watcher.is_behind
    assert told(await take(events, 1)) == [(1, "a", "x" * LARGE)]
    await events.aclose()
    hub.shutdown()


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=40),
    st.integers(1, 10),
    st.integers(1, 2_000),
    st.booleans(),
)
def test_a_backlog_has_the_newest_of_each_ref_within_its_bounds(
    sent: list[tuple[int, int]], most: int, max_bytes: int, taken: bool
) -> None:
    backlog = Backlog(most, max_bytes)
    newest: dict[Ref, Changed] = {}
    for revision, (key, size) in enumerate(sent, start=1):
        event = Changed(sized(change(revision, size, key=f"key-{key}"), size))
        if not backlog.add(event):
            backlog.clear()
            newest.clear()
            continue
        newest[event.change.ref] = event
        held = list(backlog)
        assert len(held) <= most
        assert len(held) == 1 or sum(one.change.held_bytes for one in held) <= max_bytes
        if revision % 5 == 0 and taken:
            told = backlog.take()
            if newest.get(told.change.ref) is told:
                del newest[told.change.ref]
    left = []
    while backlog:
        left.append(backlog.take())
    assert {event.change.ref: event for event in left} == newest
    assert [event.change.revision for event in left] == sorted(event.change.revision for event in left)


async def test_values_in_memory_are_bounded_in_bytes_and_the_least_recently_used_go(replica: Replica) -> None:
    near = replica.following(
        NearCache(reader=replica.reader, tail=replica.tail, max_entries=1_000, max_bytes=5 * LARGE)
    )
    refs = [config(f"key-{number}") for number in range(20)]
    await write(replica.storage, *((ref, "x" * LARGE) for ref in refs))
    for ref in refs:
        assert (await near.get([ref])).records[ref].body["value"] == "x" * LARGE
    assert (len(near), near.held_bytes <= 5 * LARGE) == (4, True)
    gets = replica.reader.gets
    await near.get(refs[-4:])
    assert replica.reader.gets == gets


async def test_a_value_that_grows_by_a_change_pushes_others_out(replica: Replica) -> None:
    near = replica.following(
        NearCache(reader=replica.reader, tail=replica.tail, max_entries=1_000, max_bytes=5 * LARGE)
    )
    refs = [config(f"key-{number}") for number in range(20)]
    for ref in refs:
        await replica.put(ref, "small")
    await near.get(refs)
    for ref in refs:
        await replica.put(ref, "x" * LARGE)
    assert near.held_bytes <= 5 * LARGE
    near.close()
    assert near.held_bytes == 0


async def test_early_commits_are_bounded_in_bytes() -> None:
    early = EarlyCommits()
    for revision in range(2, 12):
        early.put(Commit(revision, (sized(change(revision, 1), MAX_BYTES // 4),)))
    held = [revision for revision in range(2, 12) if early.pop(revision)]
    assert held == [2, 3, 4, 5]
    early.put(Commit(20, (sized(change(20, 1), MAX_BYTES),)))
    early.discard_through(20)
    early.put(Commit(21, (sized(change(21, 1), MAX_BYTES),)))
    assert early.pop(21)


async def test_copies_that_wait_are_bounded_in_bytes_and_a_renewal_pushes_none_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fallback_cache, "QUEUE_BYTES", 10 * LARGE)
    cache, clock = LocalCache(64 << 20, FakeClock()), FakeClock()
    shared = FallbackCache(cache, clock, timedelta(days=1))
    for number in range(100):
        shared.put(FallbackEntry(f"left-{number}", 1, lambda: 1, LARGE))
    assert len(shared._queue) == 10
    shared.add_source(lambda: [FallbackEntry(f"renewed-{number}", 1, lambda: 2, LARGE) for number in range(100)])
    keys = [*(f"left-{number}" for number in range(90, 100)), *(f"renewed-{number}" for number in range(100))]
    async with shared:
        await shared._put_all()
        await settle()
    assert set(await shared.get(keys)) == set(keys)


@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, "ü" * 100_000, "🎉" * 50_000, [0.5 + n for n in range(20_000)], list(range(20_000)),
     [f"text {n}" for n in range(20_000)], [{"a": n} for n in range(10_000)], [[] for _ in range(20_000)],
     [{} for _ in range(20_000)], {f"name {n}": n for n in range(20_000)}],
    ids=["ascii", "latin", "emoji", "floats", "integers", "texts", "objects", "lists", "empty", "members"],
)  # fmt: skip
def test_the_estimate_is_not_far_below_what_a_value_takes(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    tracemalloc.start()
    try:
        kept = json.loads(text)
        takes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept == value
    assert takes / 2 <= held_bytes(text) <= takes * 12
