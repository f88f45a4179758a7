"""Group commit without a database: how writes are grouped, refused, withdrawn and finished."""

import asyncio
from collections.abc import Sequence

import pytest

from configsvc.domain.records import Commit, Write
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.storage.sql.group_commit import QUIET_ITERATIONS, GroupCommit, Outcome
from tests.conformance.storage.writing import config, put

# Exceeded only if the test fails.
TIMEOUT_SECONDS = 10.0


class Database:
    """Commits groups while `is_free` is set; `groups` are the keys of each."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.error: Exception | None = None
        self.has_group = asyncio.Event()
        self.is_free = asyncio.Event()
        self.is_free.set()

    async def commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        self.groups.append([write.reads[0].key for write in writes])  # type: ignore[union-attr]
        self.has_group.set()
        await self.is_free.wait()
        if self.error is not None:
            raise self.error
        return [Outcome(Commit(len(self.groups), ())) for _ in writes]

    async def hold_a_group(self, group: GroupCommit) -> "asyncio.Task[Commit]":
        """Returns when a group with one write is committing, and goes on until `is_free` is set."""
        self.is_free.clear()
        task = asyncio.create_task(group.write(put(config("first"))))
        await self.has_group.wait()
        return task


def start(group: GroupCommit, *keys: str) -> "list[asyncio.Task[Commit]]":
    return [asyncio.create_task(group.write(put(config(key)))) for key in keys]


async def test_concurrent_writes_share_a_group_of_at_most_the_given_size() -> None:
    database = Database()
    async with GroupCommit(database.commit, group_writes=3) as group:
        commits = await asyncio.gather(*start(group, *"abcdefg"))
    assert database.groups == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert [commit.revision for commit in commits] == [1, 1, 1, 2, 2, 2, 3]


async def test_writes_that_arrive_during_a_commit_form_the_next_group() -> None:
    database = Database()
    async with GroupCommit(database.commit) as group:
        first = await database.hold_a_group(group)
        others = start(group, *"abc")
        await asyncio.sleep(0)
        database.is_free.set()
        await asyncio.gather(first, *others)
    assert database.groups == [["first"], ["a", "b", "c"]]


async def test_full_queue_refuses_the_next_write_alone() -> None:
    database = Database()
    async with GroupCommit(database.commit, queue_writes=2) as group:
        first = await database.hold_a_group(group)
        queued = start(group, *"ab")
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted) as refused:
            await group.write(put(config("c")))
        assert refused.value.reason == "WRITE_QUEUE_FULL"
        database.is_free.set()
        await asyncio.gather(first, *queued)
    assert database.groups == [["first"], ["a", "b"]]


async def test_cancelled_caller_withdraws_its_queued_write() -> None:
    database = Database()
    async with GroupCommit(database.commit) as group:
        first = await database.hold_a_group(group)
        a, b, c = start(group, *"abc")
        await asyncio.sleep(0)
        b.cancel()
        await asyncio.gather(b, return_exceptions=True)
        database.is_free.set()
        await asyncio.gather(first, a, c)
    assert database.groups == [["first"], ["a", "c"]]


async def test_cancelled_caller_in_a_committing_group_does_not_affect_the_others() -> None:
    database = Database()
    database.is_free.clear()
    async with GroupCommit(database.commit) as group, asyncio.timeout(TIMEOUT_SECONDS):
        a, b = start(group, *"ab")
        await database.has_group.wait()
        a.cancel()
        await asyncio.gather(a, return_exceptions=True)
        database.is_free.set()
        assert (await b).revision == 1
    assert database.groups == [["a", "b"]]


async def test_write_that_arrives_some_loop_iterations_later_joins_the_group() -> None:
    database = Database()
    async with GroupCommit(database.commit) as group:
        (first,) = start(group, "first")
        for _ in range(QUIET_ITERATIONS // 2):
            await asyncio.sleep(0)
        assert database.groups == []
        await asyncio.gather(first, *start(group, "second"))
    assert database.groups == [["first", "second"]]


async def test_error_of_a_commit_is_the_outcome_of_every_write_and_the_next_group_commits() -> None:
    database = Database()
    database.error = Unavailable("the disk is broken")
    async with GroupCommit(database.commit) as group:
        outcomes = await asyncio.gather(*start(group, *"ab"), return_exceptions=True)
        assert outcomes == [database.error, database.error]
        database.error = None
        assert (await group.write(put(config("c")))).revision == 2


async def test_closing_commits_what_is_queued_and_then_refuses_writes() -> None:
    database = Database()
    group = GroupCommit(database.commit, group_writes=2)
    await group.__aenter__()
    first = await database.hold_a_group(group)
    queued = start(group, *"abc")
    await asyncio.sleep(0)
    closing = asyncio.create_task(group.__aexit__(None, None, None))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await group.write(put(config("late")))
    assert refused.value.reason == "STORAGE_CLOSED"
    database.is_free.set()
    await asyncio.gather(first, *queued, closing)
    assert database.groups == [["first"], ["a", "b"], ["c"]]
