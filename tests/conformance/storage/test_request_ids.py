"""What `storage/port` promises of request ids: a retry gets the outcome of the first attempt."""

import asyncio
from dataclasses import replace

import pytest

from configsvc.domain.records import Commit, Write
from configsvc.errors import AlreadyExists, FailedPrecondition
from configsvc.storage.port import Storage
from tests.conformance.storage.writing import StorageFactory, author, batch, config, create, put, remove, revisions


def attempt(value: int = 1, request_id: str = "r-1") -> Write:
    return create(config("a"), value, by=author(request_id), fingerprint=f"value {value}")


def replayed(commit: Commit) -> Commit:
    return replace(commit, replayed=True)


async def test_retry_returns_the_first_commit_and_changes_nothing(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        first = await storage.write(attempt())
        assert not first.replayed
        assert await storage.write(attempt()) == replayed(first)
    async with open_storage() as storage:
        await storage.write(remove(config("a")))
        assert await storage.write(attempt()) == replayed(first), "the record was removed meanwhile"
        assert await revisions(storage) == [1, 2]


async def test_concurrent_retries_make_one_change(storage: Storage) -> None:
    commits = await asyncio.gather(*(storage.write(attempt()) for _ in range(20)))
    assert [commit.revision for commit in commits] == [1] * 20
    assert sum(not commit.replayed for commit in commits) == 1
    assert await revisions(storage) == [1]


async def test_replay_does_not_move_the_revisions_of_its_group(storage: Storage) -> None:
    await storage.write(attempt())
    await storage.write(put(config("b")))
    commits = await asyncio.gather(
        storage.write(put(config("c"))), storage.write(put(config("d"))), storage.write(attempt())
    )
    assert [commit.revision for commit in commits] == [3, 4, 1]
    assert await revisions(storage) == [1, 2, 3, 4]
    assert (await storage.state()).digest == (await storage.read(3, 1))[-1].digest


async def test_request_id_with_other_content_is_refused(storage: Storage) -> None:
    await storage.write(attempt(1))
    with pytest.raises(FailedPrecondition) as refused:
        await storage.write(attempt(2))
    assert (refused.value.reason, refused.value.metadata) == ("REQUEST_ID_REUSED", {"request_id": "r-1"})
    assert await revisions(storage) == [1]


async def test_request_id_with_other_content_is_refused_in_the_same_group(storage: Storage) -> None:
    outcomes = await asyncio.gather(storage.write(attempt(1)), storage.write(attempt(2)), return_exceptions=True)
    assert isinstance(outcomes[0], Commit)
    assert isinstance(outcomes[1], FailedPrecondition)


async def test_failed_attempt_does_not_use_the_request_id(storage: Storage) -> None:
    await storage.write(put(config("a")))
    with pytest.raises(AlreadyExists):
        await storage.write(attempt())
    await storage.write(remove(config("a")))
    commit = await storage.write(attempt(2))
    assert (commit.replayed, commit.revision) == (False, 3)


async def test_write_without_changes_is_replayed_too(storage: Storage) -> None:
    await storage.write(put(config("a")))
    nothing = batch(reads=(config("a"),), by=author("r-2"))
    first = await storage.write(nothing)
    assert (first.revision, first.changes, first.replayed) == (1, (), False)
    await storage.write(put(config("b")))
    assert await storage.write(nothing) == replayed(first)


async def test_writes_without_a_request_id_are_never_replayed(storage: Storage) -> None:
    commits = [await storage.write(put(config("a"))) for _ in range(3)]
    assert [(commit.revision, commit.replayed) for commit in commits] == [(1, False), (2, False), (3, False)]
