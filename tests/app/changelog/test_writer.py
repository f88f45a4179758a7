"""The writer that waits until this replica has applied what it wrote."""

import asyncio

import pytest

from configsvc.app.changelog.writer import APPLY_SECONDS, AppliedWriter
from configsvc.domain.records import Author, Commit, Write
from configsvc.errors import Unavailable
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import AT, RecordingFollower, Replica, config, mutation, write

A = config("a")


def put(value: object) -> Write:
    return Write(Author("tester", "", "", AT), (A,), lambda view: (mutation(A, value),))


async def test_write_costs_no_read_of_the_log(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    seen = replica.following(RecordingFollower())
    before = (replica.reader.reads, replica.reader.states)
    commit = await AppliedWriter(replica.storage, replica.tail).write(put(1))
    assert replica.tail.applied == commit.revision == 1
    assert seen.revisions == [1]
    await settle()
    assert (replica.reader.reads, replica.reader.states) == before


async def test_write_after_another_replicas_write_is_applied_when_it_returns(
    replica: Replica, clock: FakeClock
) -> None:
    await clock.asleep()
    await write(replica.storage, (config("theirs"), 1))
    commit = await AppliedWriter(replica.storage, replica.tail).write(put(1))
    assert replica.tail.applied == commit.revision == 2


async def test_write_returns_its_commit_although_the_log_cannot_be_read(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    await write(replica.storage, (config("theirs"), 1))
    replica.reader.is_down = True
    # The log is not read until the write is done, so these sleepers are the pause of the tail and the wait of the writer.
    writing = asyncio.ensure_future(AppliedWriter(replica.storage, replica.tail).write(put(1)))
    await clock.asleep(2)
    assert not writing.done()
    await clock.advance(APPLY_SECONDS)
    commit = await writing
    assert (commit.revision, replica.tail.applied) == (2, 0)


async def test_refused_write_to_a_diverged_log_makes_the_tail_read(replica: Replica, clock: FakeClock) -> None:
    class Diverged:
        async def write(self, write: Write) -> Commit:
            raise Unavailable("the log has diverged", "LOG_DIVERGED")

    await clock.asleep()
    reads = replica.reader.reads
    with pytest.raises(Unavailable):
        await AppliedWriter(Diverged(), replica.tail).write(put(1))
    await settle()
    assert replica.reader.reads > reads
