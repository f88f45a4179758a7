"""Changes that wait in memory are bounded in bytes, however many there are."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configsvc.app.changelog.reading.early_commits import MAX_BYTES, EarlyCommits
from configsvc.app.watch.backlog import Backlog
from configsvc.app.watch.events import Changed
from configsvc.app.watch.hub import WatchHub
from configsvc.domain.records import Change, Commit, Ref
from tests.app.changelog.memory_publisher import change
from tests.app.fake_clock import FakeClock
from tests.app.replica import Replica, config
from tests.app.watch.watching import ALL, A, B, changes_in, open_snapshot, take

pytestmark = pytest.mark.timeout(60)

LARGE = 100_000


def sized(made: Change, size: int) -> Change:
    return replace(made, after_bytes=size)


def open_hub(replica: Replica, buffer_bytes: int) -> WatchHub:
    return replica.following(WatchHub(
        tail=replica.tail, reader=replica.storage, log=replica.storage, clock=FakeClock(), buffer_changes=1_000,
        buffer_bytes=buffer_bytes, progress_seconds=60,
    ))  # fmt: skip


async def test_large_changes_of_one_key_are_conflated_within_the_byte_bound(replica: Replica) -> None:
    hub = open_hub(replica, 5 * LARGE)
    events = hub.watch(ALL, None)
    await open_snapshot(events)
    for number in range(50):
        await replica.put(A, f"{number:0{LARGE}}")
    await replica.put(B, 1)
    (watcher,) = hub._watchers
    assert sum(event.change.held_bytes for event in watcher.backlog) <= 5 * LARGE
    assert changes_in(await take(events, 2)) == [(50, "a", f"{49:0{LARGE}}"), (51, "b", 1)]
    await events.aclose()
    hub.shutdown()


async def test_large_changes_of_many_keys_are_read_from_the_log_and_none_is_lost(replica: Replica) -> None:
    hub = open_hub(replica, 5 * LARGE)
    events = hub.watch(ALL, None)
    await open_snapshot(events)
    for number in range(50):
        await replica.put(config(f"key-{number}"), f"{number:0{LARGE}}")
    (watcher,) = hub._watchers
    assert not watcher.backlog
    assert [key for _, key, _ in changes_in(await take(events, 50))] == [f"key-{number}" for number in range(50)]
    await events.aclose()
    hub.shutdown()


async def test_change_above_the_byte_bound_is_sent_without_a_read_of_the_log(replica: Replica) -> None:
    hub = open_hub(replica, 10)
    events = hub.watch(ALL, None)
    await open_snapshot(events)
    await replica.put(A, "x" * LARGE)
    (watcher,) = hub._watchers
    assert not watcher.is_behind
    assert changes_in(await take(events, 1)) == [(1, "a", "x" * LARGE)]
    await events.aclose()
    hub.shutdown()


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=40),
    st.integers(1, 10),
    st.integers(1, 2_000),
    st.booleans(),
)
def test_backlog_has_the_newest_change_of_each_ref_within_its_bounds(
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
