"""What the tail applies, and in which order."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.changelog.reading.early_commits import MAX_COMMITS
from configsvc.app.changelog.reading.log_reader import READ_CHANGES
from configsvc.bus.local import LocalBus
from configsvc.clock import SystemClock
from configsvc.domain.records import Change
from configsvc.storage.port import RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import POLL_SECONDS, RecordingFollower, Replica, config, open_replica, open_storage, write

pytestmark = pytest.mark.timeout(60)


async def test_tail_starts_at_the_head_and_applies_only_later_changes(storage: Storage, clock: FakeClock) -> None:
    for value in range(3):
        await write(storage, (config("a"), value))
    async with open_replica(storage, clock) as replica:
        assert replica.tail.applied == 3
        seen = RecordingFollower()
        replica.tail.subscribe(seen)
        await replica.put(config("a"), 4)
        assert seen.revisions == [4]


async def test_own_commit_is_applied_at_once_without_a_read(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    await clock.asleep()
    reads = replica.reader.reads
    commit = await write(replica.storage, (config("a"), 1))
    replica.tail.on_commit(commit)
    assert (replica.tail.applied, seen.revisions) == (1, [1])
    await settle()
    assert replica.reader.reads == reads


async def test_followers_apply_a_change_before_applied_advances(replica: Replica) -> None:
    applied: list[int] = []

    class OrderedFollower(RecordingFollower):
        def apply(self, changes: Sequence[Change]) -> None:
            applied.append(replica.tail.applied)

    replica.tail.subscribe(OrderedFollower())
    await replica.put(config("a"), 1)
    await replica.put(config("a"), 2)
    assert applied == [0, 1]
    assert replica.tail.applied == 2


async def test_own_commits_that_arrive_in_any_order_are_applied_in_order(
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


async def test_early_commits_that_are_not_held_are_read_from_the_log(replica: Replica, seen: RecordingFollower) -> None:
    commits = [await write(replica.storage, (config("a"), value)) for value in range(MAX_COMMITS + 50)]
    for commit in reversed(commits):
        replica.tail.on_commit(commit)
    await seen.until(len(commits))
    assert seen.revisions == list(range(1, len(commits) + 1))


async def test_other_replicas_writes_before_an_own_commit_are_read(replica: Replica, seen: RecordingFollower) -> None:
    await write(replica.storage, (config("theirs"), 1))
    await replica.put(config("ours"), 2)
    await seen.until(2)
    assert seen.revisions == [1, 2]


async def test_revision_is_never_cut(replica: Replica, seen: RecordingFollower) -> None:
    refs = [config(f"key-{n}") for n in range(READ_CHANGES + 20)]
    await write(replica.storage, (config("first"), 0))
    commit = await write(replica.storage, *((ref, 1) for ref in refs))
    replica.bus.announce(commit.changes)
    await seen.until(2)
    for batch in seen.batches:
        inside = [change for change in batch if change.revision == 2]
        assert len(inside) in (0, len(refs))
        assert [change.ordinal for change in inside] == list(range(len(inside)))


async def test_many_missing_changes_are_read_in_pages(replica: Replica, seen: RecordingFollower) -> None:
    commits = [await write(replica.storage, (config("a"), value)) for value in range(READ_CHANGES * 3 + 7)]
    replica.bus.announce(commits[-1].changes)
    await seen.until(len(commits))
    assert seen.revisions == list(range(1, len(commits) + 1))
    assert max(len(batch) for batch in seen.batches) <= READ_CHANGES


async def test_follower_that_raises_is_reset_and_harms_no_other(
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


async def test_unsubscribed_follower_gets_no_more_changes(replica: Replica) -> None:
    seen = RecordingFollower()
    unsubscribe = replica.tail.subscribe(seen)
    await replica.put(config("a"), 1)
    unsubscribe()
    unsubscribe()
    await replica.put(config("a"), 2)
    assert seen.revisions == [1]


async def test_compaction_beyond_applied_resets_followers_to_the_head(
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


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), writers=st.integers(1, 8))
async def test_each_replica_applies_every_revision_once_whoever_writes(seed: int, writers: int) -> None:
    random = Random(seed)
    with TemporaryDirectory() as folder:
        async with open_storage(Path(folder)) as storage:
            bus = LocalBus()
            async with (
                open_replica(storage, SystemClock(), bus) as here,
                open_replica(storage, SystemClock()) as there,
            ):
                followers = [RecordingFollower(), RecordingFollower()]
                here.tail.subscribe(followers[0])
                there.tail.subscribe(followers[1])

                async def write_some() -> None:
                    for _ in range(10):
                        commit = await write(storage, (config(random.choice("abc")), random.random()))
                        for _ in range(random.randrange(4)):
                            await asyncio.sleep(0)
                        random.choice((here, there)).tail.on_commit(commit)

                await asyncio.gather(*(write_some() for _ in range(writers)))
                for replica, seen in zip((here, there), followers, strict=True):
                    await replica.tail.wait_for(10 * writers, None)
                    assert seen.revisions == list(range(1, 10 * writers + 1))
