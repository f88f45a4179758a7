"""The one reader of the log: order, wake-ups, staleness, waiting."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.changelog.early_commits import MAX_COMMITS
from configsvc.app.changelog.log_reader import READ_CHANGES
from configsvc.app.changelog.tail import LONGEST_PAUSE_SECONDS
from configsvc.bus.local import LocalBus
from configsvc.clock import SystemClock
from configsvc.domain.records import Change
from configsvc.errors import Unavailable
from configsvc.storage.port import RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import POLL_SECONDS, RecordingFollower, Replica, config, open_replica, open_storage, write

pytestmark = pytest.mark.timeout(60)


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
def seen(replica: Replica) -> RecordingFollower:
    listener = RecordingFollower()
    replica.tail.subscribe(listener)
    return listener


async def test_it_starts_at_the_head_and_tells_only_what_comes_after(storage: Storage, clock: FakeClock) -> None:
    for value in range(3):
        await write(storage, (config("a"), value))
    async with open_replica(storage, clock) as replica:
        assert replica.tail.applied == 3
        seen = RecordingFollower()
        replica.tail.subscribe(seen)
        await replica.put(config("a"), 4)
        assert seen.revisions == [4]


async def test_an_own_commit_is_applied_at_once_without_a_read(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    await clock.asleep()
    reads = replica.reader.reads
    commit = await write(replica.storage, (config("a"), 1))
    replica.tail.on_commit(commit)
    assert (replica.tail.applied, seen.revisions) == (1, [1])
    await settle()
    assert replica.reader.reads == reads


async def test_listeners_are_told_before_applied_advances(replica: Replica) -> None:
    applied: list[int] = []

    class Listener(RecordingFollower):
        def apply(self, changes: Sequence[Change]) -> None:
            applied.append(replica.tail.applied)

    replica.tail.subscribe(Listener())
    await replica.put(config("a"), 1)
    await replica.put(config("a"), 2)
    assert applied == [0, 1]
    assert replica.tail.applied == 2


async def test_group_committed_writes_arrive_in_any_order_and_are_told_in_order(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    await clock.asleep()
    reads = replica.reader.reads
    commits = [await write(replica.storage, (config("a"), value)) for value in range(20)]
    Random(1).shuffle(commits)
    for commit in commits:
        replica.tail.on_commit(commit)
    assert seen.revisions == list(range(1, 21))
    await settle()
    assert replica.reader.reads == reads


async def test_more_early_commits_than_are_held_come_from_the_log(replica: Replica, seen: RecordingFollower) -> None:
    commits = [await write(replica.storage, (config("a"), value)) for value in range(MAX_COMMITS + 50)]
    for commit in reversed(commits):
        replica.tail.on_commit(commit)
    await seen.until(len(commits))
    assert seen.revisions == list(range(1, len(commits) + 1))


async def test_the_writes_of_others_before_an_own_one_are_read(replica: Replica, seen: RecordingFollower) -> None:
    await write(replica.storage, (config("theirs"), 1))
    await replica.put(config("ours"), 2)
    await seen.until(2)
    assert seen.revisions == [1, 2]


async def test_the_bus_wakes_it_before_the_poll(replica: Replica, seen: RecordingFollower, clock: FakeClock) -> None:
    await clock.asleep()
    commit = await write(replica.storage, (config("a"), 1))
    replica.bus.announce(commit.changes)
    await seen.until(1)
    assert clock.monotonic() == 0


async def test_a_lost_message_costs_one_poll(replica: Replica, seen: RecordingFollower, clock: FakeClock) -> None:
    await clock.asleep()
    await write(replica.storage, (config("a"), 1))
    await clock.advance(POLL_SECONDS * 0.99)
    assert seen.revisions == []
    await clock.advance(POLL_SECONDS * 0.02)
    await seen.until(1)


async def test_doubled_late_and_untrue_messages_change_nothing(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    commits = [await write(replica.storage, (config("a"), value)) for value in range(5)]
    untrue = [replace(change, revision=10**9) for change in commits[0].changes]
    for changes in (commits[4].changes, commits[0].changes, untrue, commits[4].changes):
        replica.bus.announce(changes)
        await settle()
    await seen.until(5)
    assert seen.revisions == [1, 2, 3, 4, 5]
    await clock.asleep()
    reads = replica.reader.reads
    await settle()
    assert replica.reader.reads == reads, "it reads on and on for a revision that does not exist"


async def test_an_own_commit_is_announced_once_and_a_replayed_one_is_not(replica: Replica) -> None:
    messages = replica.bus.subscribe()
    commit = await replica.put(config("a"), 1)
    assert await anext(messages) == 1
    replica.tail.on_commit(replace(commit, replayed=True))
    await replica.put(config("a"), 2)
    assert await anext(messages) == 2


async def test_a_replayed_commit_that_is_not_applied_yet_wakes_the_reader(
    replica: Replica, seen: RecordingFollower
) -> None:
    commit = await write(replica.storage, (config("a"), 1))
    replica.tail.on_commit(replace(commit, replayed=True))
    await seen.until(1)


async def test_a_revision_is_never_cut(replica: Replica, seen: RecordingFollower) -> None:
    refs = [config(f"key-{n}") for n in range(READ_CHANGES + 20)]
    await write(replica.storage, (config("first"), 0))
    commit = await write(replica.storage, *((ref, 1) for ref in refs))
    replica.bus.announce(commit.changes)
    await seen.until(2)
    for batch in seen.batches:
        inside = [change for change in batch if change.revision == 2]
        assert len(inside) in (0, len(refs))
        assert [change.ordinal for change in inside] == list(range(len(inside)))


async def test_a_long_way_behind_is_read_in_parts(replica: Replica, seen: RecordingFollower) -> None:
    commits = [await write(replica.storage, (config("a"), value)) for value in range(READ_CHANGES * 3 + 7)]
    replica.bus.announce(commits[-1].changes)
    await seen.until(len(commits))
    assert seen.revisions == list(range(1, len(commits) + 1))
    assert max(len(batch) for batch in seen.batches) <= READ_CHANGES


async def test_a_listener_that_raises_is_reset_and_stops_nobody(
    replica: Replica, seen: RecordingFollower, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(RecordingFollower):
        def apply(self, changes: Sequence[Change]) -> None:
            raise RuntimeError("broken")

    broken = replica.following(Broken())
    after = RecordingFollower()
    replica.tail.subscribe(after)
    with caplog.at_level(logging.ERROR):
        await replica.put(config("a"), 1)
        await replica.put(config("a"), 2)
    assert seen.revisions == after.revisions == [1, 2]
    assert broken.resets == [1, 2]
    assert replica.tail.applied == 2
    assert "a follower of the log failed" in caplog.text


async def test_an_unsubscribed_listener_hears_no_more(replica: Replica) -> None:
    seen = RecordingFollower()
    unsubscribe = replica.tail.subscribe(seen)
    await replica.put(config("a"), 1)
    unsubscribe()
    unsubscribe()
    await replica.put(config("a"), 2)
    assert seen.revisions == [1]


async def test_waiting_for_an_applied_revision_returns_at_once(replica: Replica) -> None:
    await replica.put(config("a"), 1)
    await replica.tail.wait_for(1, 0)
    await replica.tail.wait_for(0, None)


async def test_waiting_for_a_revision_that_another_replica_wrote_reads_it(replica: Replica, clock: FakeClock) -> None:
    """Neither the bus nor the poll is needed."""
    await clock.asleep()
    await write(replica.storage, (config("a"), 1))
    await replica.tail.wait_for(1, 10)
    assert replica.tail.applied == 1
    assert clock.monotonic() == 0


async def test_a_revision_that_does_not_come_in_time_is_unavailable(replica: Replica, clock: FakeClock) -> None:
    await replica.put(config("a"), 1)
    waiting = asyncio.ensure_future(replica.tail.wait_for(5, 2))
    await clock.advance(1.9)
    assert not waiting.done()
    await clock.advance(0.2)
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "REVISION_NOT_REACHED"
    assert caught.value.metadata == {"applied": "1", "required": "5"}


async def test_many_who_wait_are_woken_each_by_its_revision(replica: Replica) -> None:
    waiting = [asyncio.ensure_future(replica.tail.wait_for(revision, None)) for revision in (3, 1, 2, 2, 9)]
    gone = asyncio.ensure_future(replica.tail.wait_for(2, None))
    await settle()
    gone.cancel()
    await replica.put(config("a"), 1)
    await replica.put(config("a"), 2)
    await settle()
    assert [task.done() for task in waiting] == [False, True, True, True, False]
    await replica.put(config("a"), 3)
    await waiting[0]
    waiting[4].cancel()


async def test_closing_ends_the_waiting(storage: Storage, clock: FakeClock) -> None:
    async with open_replica(storage, clock) as replica:
        waiting = asyncio.ensure_future(replica.tail.wait_for(5, None))
        await settle()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "SHUTTING_DOWN"
    with pytest.raises(Unavailable):
        await replica.tail.wait_for(5, None)


async def test_it_is_stale_from_the_last_good_read_until_the_log_is_back(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    await clock.asleep()
    assert replica.tail.stale_since is None
    last_good = clock.now()
    replica.reader.is_down = True
    await clock.advance(POLL_SECONDS)
    await clock.asleep()
    assert replica.tail.stale_since == last_good
    await write(replica.storage, (config("a"), 1))
    await clock.advance(60)
    assert replica.tail.stale_since == last_good
    replica.reader.is_down = False
    await clock.advance(LONGEST_PAUSE_SECONDS)
    await seen.until(1)
    assert replica.tail.stale_since is None


async def test_a_log_that_is_away_is_asked_ever_more_seldom(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    replica.reader.is_down = True
    await clock.advance(600)
    assert 600 / LONGEST_PAUSE_SECONDS <= replica.reader.reads <= 600 / (LONGEST_PAUSE_SECONDS / 2) + 10


async def test_an_own_commit_ends_the_pause(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    replica.reader.is_down = True
    await clock.advance(120)
    assert replica.tail.stale_since is not None
    replica.reader.is_down = False
    reads = replica.reader.reads
    await replica.put(config("a"), 1)
    assert replica.tail.stale_since is None
    await settle()
    assert replica.reader.reads > reads


async def test_falling_behind_compaction_resets_the_listeners_and_goes_on_from_the_head(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    await clock.asleep()
    for value in range(20):
        await write(replica.storage, (config("a"), value))
    await replica.storage.compact(RetentionPolicy(3))
    await clock.advance(POLL_SECONDS)
    await seen.until(20)
    assert (seen.revisions, seen.resets) == ([], [20])
    assert replica.tail.applied == 20
    await replica.put(config("a"), 99)
    assert seen.revisions == [21]


async def test_one_who_waits_is_woken_by_a_gap_too(replica: Replica) -> None:
    for value in range(20):
        await write(replica.storage, (config("a"), value))
    await replica.storage.compact(RetentionPolicy(3))
    await replica.tail.wait_for(20, None)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), writers=st.integers(1, 8))
async def test_whoever_writes_in_whatever_order_each_replica_tells_every_revision_once(seed: int, writers: int) -> None:
    random = Random(seed)
    with TemporaryDirectory() as folder:
        async with open_storage(Path(folder)) as storage:
            bus = LocalBus()
            async with (
                open_replica(storage, SystemClock(), bus) as here,
                open_replica(storage, SystemClock()) as there,
            ):
                listeners = [RecordingFollower(), RecordingFollower()]
                here.tail.subscribe(listeners[0])
                there.tail.subscribe(listeners[1])

                async def write_some() -> None:
                    for _ in range(10):
                        commit = await write(storage, (config(random.choice("abc")), random.random()))
                        for _ in range(random.randrange(4)):
                            await asyncio.sleep(0)
                        random.choice((here, there)).tail.on_commit(commit)

                await asyncio.gather(*(write_some() for _ in range(writers)))
                for replica, seen in zip((here, there), listeners, strict=True):
                    await replica.tail.wait_for(10 * writers, None)
                    assert seen.revisions == list(range(1, 10 * writers + 1))


async def test_news_is_what_was_committed_before_it_was_asked_for(replica: Replica) -> None:
    assert not await replica.tail.catch_up()
    commit = await write(replica.storage, (config("a"), 1))
    assert await replica.tail.catch_up()
    assert replica.tail.applied == commit.revision


async def test_those_who_ask_for_news_together_share_a_look(replica: Replica) -> None:
    await write(replica.storage, (config("a"), 1))
    states = replica.reader.states
    assert any(await asyncio.gather(*(replica.tail.catch_up() for _ in range(50))))
    assert replica.reader.states <= states + 2


async def test_where_the_log_cannot_be_read_there_is_no_news_and_no_error(replica: Replica) -> None:
    await write(replica.storage, (config("a"), 1))
    replica.reader.is_down = True
    assert not await replica.tail.catch_up()
