"""What makes the tail read the log, and how often it reads a log that is down."""

from dataclasses import replace

import pytest

from configsvc.app.changelog.tail import LONGEST_PAUSE_SECONDS
from configsvc.errors import Unavailable
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import POLL_SECONDS, RecordingFollower, Replica, config, write

pytestmark = pytest.mark.timeout(60)


async def test_announcement_makes_the_tail_read_before_the_poll(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    await clock.asleep()
    commit = await write(replica.storage, (config("a"), 1))
    replica.bus.announce(commit.changes)
    await seen.until(1)
    assert clock.monotonic() == 0


async def test_lost_announcement_costs_one_poll(replica: Replica, seen: RecordingFollower, clock: FakeClock) -> None:
    await clock.asleep()
    await write(replica.storage, (config("a"), 1))
    await clock.advance(POLL_SECONDS * 0.99)
    assert seen.revisions == []
    await clock.advance(POLL_SECONDS * 0.02)
    await seen.until(1)


async def test_duplicated_late_and_untrue_announcements_change_nothing(
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
    assert replica.reader.reads == reads, "it keeps reading for a revision that does not exist"


async def test_own_commit_is_announced_once_and_a_replayed_one_is_not(replica: Replica) -> None:
    messages = replica.bus.subscribe()
    commit = await replica.put(config("a"), 1)
    assert await anext(messages) == 1
    replica.tail.on_commit(replace(commit, replayed=True))
    await replica.put(config("a"), 2)
    assert await anext(messages) == 2


async def test_replayed_commit_that_is_not_applied_yet_makes_the_tail_read(
    replica: Replica, seen: RecordingFollower
) -> None:
    commit = await write(replica.storage, (config("a"), 1))
    replica.tail.on_commit(replace(commit, replayed=True))
    await seen.until(1)


async def test_tail_is_stale_since_the_last_successful_read_until_the_log_is_back(
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


async def test_log_that_is_down_is_read_less_and_less_often(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    replica.reader.is_down = True
    await clock.advance(600)
    assert 600 / LONGEST_PAUSE_SECONDS <= replica.reader.reads <= 600 / (LONGEST_PAUSE_SECONDS / 2) + 10


async def test_own_commit_ends_the_pause(replica: Replica, clock: FakeClock) -> None:
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


async def test_failed_reads_of_the_store_do_not_postpone_the_poll(
    replica: Replica, seen: RecordingFollower, clock: FakeClock
) -> None:
    await clock.asleep()
    await write(replica.storage, (config("a"), 1))
    for _ in range(3):
        await clock.advance(POLL_SECONDS * 0.3)
        replica.tail.mark_stale(Unavailable("a read failed"))
    await clock.advance(POLL_SECONDS * 0.2)
    await seen.until(1)
    assert replica.tail.stale_since is None
    assert clock.monotonic() < POLL_SECONDS * 1.2


async def test_first_pause_of_a_new_outage_is_short_again(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    replica.reader.is_down = True
    await clock.advance(120)
    replica.reader.is_down = False
    await clock.advance(LONGEST_PAUSE_SECONDS)
    await clock.asleep()
    assert replica.tail.stale_since is None
    replica.reader.is_down = True
    await clock.advance(POLL_SECONDS)
    assert replica.tail.stale_since is not None
    reads = replica.reader.reads
    await clock.advance(2 * POLL_SECONDS)
    assert replica.reader.reads > reads
