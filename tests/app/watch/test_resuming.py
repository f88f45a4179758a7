"""Watches that resume at a revision."""

import pytest

from configsvc.app.watch import store_reads
from configsvc.app.watch.events import Synced
from configsvc.app.watch.hub import WatchHub
from configsvc.errors import RevisionOutOfRange
from configsvc.storage.port import RetentionPolicy
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import POLL_SECONDS, Replica, write
from tests.app.watch.watching import ALL, A, changes_in, open_snapshot, take

pytestmark = pytest.mark.timeout(60)


async def test_resumed_watch_replays_every_change_in_order_and_goes_live(replica: Replica, hub: WatchHub) -> None:
    for value in range(1, store_reads.CATCH_UP_CHANGES * 2 + 20):
        await write(replica.storage, (A, value))
    last = store_reads.CATCH_UP_CHANGES * 2 + 19
    await replica.tail.wait_for(last, None)
    events = hub.watch(ALL, 5)
    assert await anext(events) == Synced(5)
    replayed = await take(events, last - 6)
    await replica.put(A, last + 1)
    assert changes_in(replayed + await take(events, 2)) == [(n, "a", n) for n in range(6, last + 2)]


async def test_resuming_at_the_head_costs_no_read_of_the_store(replica: Replica, hub: WatchHub) -> None:
    """After a disconnection all clients come back at once."""
    await replica.put(A, 1)
    await settle()
    before = (replica.reader.states, replica.reader.reads, replica.reader.pages)
    events = hub.watch(ALL, 1)
    assert await anext(events) == Synced(1)
    await replica.put(A, 2)
    assert changes_in([await anext(events)]) == [(2, "a", 2)]
    assert (replica.reader.states, replica.reader.reads, replica.reader.pages) == before


async def test_lagging_replica_accepts_a_revision_that_the_log_has(replica: Replica, hub: WatchHub) -> None:
    commits = [await write(replica.storage, (A, value)) for value in (1, 2, 3, 4)]
    at_two, at_four = hub.watch(ALL, 2), hub.watch(ALL, 4)
    assert await anext(at_two) == Synced(2)
    assert await anext(at_four) == Synced(4)
    for commit in commits:
        replica.tail.on_commit(commit)
    await replica.put(A, 5)
    assert changes_in(await take(at_two, 3)) == [(3, "a", 3), (4, "a", 4), (5, "a", 5)]
    assert changes_in(await take(at_four, 1)) == [(5, "a", 5)]


async def test_future_revision_is_refused(replica: Replica, hub: WatchHub) -> None:
    await replica.put(A, 1)
    with pytest.raises(RevisionOutOfRange) as caught:
        await anext(hub.watch(ALL, 2))
    assert caught.value.metadata == {"oldest_revision": "0", "current_revision": "1"}
    assert "not happened" in caught.value.message
    assert hub.watchers == 0


async def test_compacted_revision_is_refused_with_the_oldest_one_kept(replica: Replica, hub: WatchHub) -> None:
    for value in range(10):
        await replica.put(A, value)
    assert await replica.storage.compact(RetentionPolicy(4)) == 6
    with pytest.raises(RevisionOutOfRange) as caught:
        await anext(hub.watch(ALL, 5))
    assert caught.value.metadata == {"oldest_revision": "6", "current_revision": "10"}
    assert "compacted" in caught.value.message
    events = hub.watch(ALL, 6)
    await anext(events)
    assert changes_in(await take(events, 4)) == [(7, "a", 6), (8, "a", 7), (9, "a", 8), (10, "a", 9)]


async def test_watch_ends_if_the_log_is_compacted_beyond_its_replay(replica: Replica, hub: WatchHub) -> None:
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


async def test_gap_in_the_tail_ends_only_watches_that_missed_a_change(
    replica: Replica, hub: WatchHub, clock: FakeClock
) -> None:
    """The replica could not reach its database for so long that the log was compacted meanwhile."""
    watching = hub.watch(ALL, None)
    await open_snapshot(watching)
    await clock.asleep(2)
    for value in range(10):
        await write(replica.storage, (A, value))
    await replica.storage.compact(RetentionPolicy(2))
    await clock.advance(POLL_SECONDS)
    with pytest.raises(RevisionOutOfRange):
        await anext(watching)
    events = hub.watch(ALL, 9)
    await anext(events)
    assert changes_in([await anext(events)]) == [(10, "a", 9)]
