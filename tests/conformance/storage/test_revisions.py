"""Revisions are 1, 2, 3 … in commit order, and a reader that is behind never misses one."""

import asyncio

import pytest

from configsvc.domain.records import Action, Change, Put
from configsvc.errors import AlreadyExists, RevisionOutOfRange, ServiceError
from configsvc.storage.port import Storage
from tests.conformance.storage.writing import batch, config, create, increment, put, raising, remove, revisions

WRITERS = 64


async def test_empty_log_is_at_revision_zero(storage: Storage) -> None:
    state = await storage.state()
    assert (state.head, state.compacted, state.since, state.digest) == (0, 0, 0, "")
    assert await storage.read(0, 10) == ()
    assert (await storage.get([config("a")])).revision == 0


async def test_each_write_takes_the_next_revision(storage: Storage) -> None:
    commits = [await storage.write(put(config(key))) for key in ("a", "b", "a")]
    assert [commit.revision for commit in commits] == [1, 2, 3]
    state = await storage.state()
    assert (state.head, state.compacted, state.since) == (3, 0, 0)


async def test_batch_takes_one_revision_and_orders_its_changes(storage: Storage) -> None:
    keys = ["c", "a", "b"]
    commit = await storage.write(batch(*(Put(config(key), {"value": key}, Action.CREATE) for key in keys)))
    assert [(change.revision, change.ordinal, change.ref.key) for change in commit.changes] == [
        (1, 0, "c"),
        (1, 1, "a"),
        (1, 2, "b"),
    ]
    assert await storage.read(0, 10) == commit.changes


async def test_revisions_are_gapless_under_concurrent_writers(storage: Storage) -> None:
    async def write(number: int) -> list[int]:
        made = []
        for attempt in range(5):
            made.append((await storage.write(put(config(f"{number}-{attempt}")))).revision)
            with pytest.raises(AlreadyExists):
                await storage.write(create(config(f"{number}-{attempt}")))
        return made

    made = await asyncio.gather(*(write(number) for number in range(WRITERS)))
    assert all(own == sorted(own) for own in made)
    assert sorted(revision for own in made for revision in own) == list(range(1, WRITERS * 5 + 1))
    assert await revisions(storage) == list(range(1, WRITERS * 5 + 1))


async def test_polling_reader_never_misses_a_revision(storage: Storage) -> None:
    total = WRITERS * 4
    seen: list[int] = []

    async def poll() -> None:
        while len(seen) < total:
            seen.extend(change.revision for change in await storage.read(seen[-1] if seen else 0, 7))

    async def write(number: int) -> None:
        for _ in range(4):
            await storage.write(increment(config(f"{number % 8}")))

    async with asyncio.timeout(60):
        await asyncio.gather(poll(), *(write(number) for number in range(WRITERS)))
    # In order, without duplicates or gaps.
    assert seen == list(range(1, total + 1))


async def test_failed_write_takes_no_revision(storage: Storage) -> None:
    await storage.write(put(config("a")))
    with pytest.raises(AlreadyExists):
        await storage.write(create(config("a")))
    assert (await storage.write(put(config("b")))).revision == 2


async def test_write_without_changes_takes_no_revision(storage: Storage) -> None:
    await storage.write(put(config("a")))
    commit = await storage.write(batch(reads=(config("a"),)))
    assert (commit.revision, commit.changes, commit.replayed) == (1, (), False)
    assert (await storage.write(put(config("b")))).revision == 2


async def test_acknowledged_write_is_seen_by_the_next_read(storage: Storage) -> None:
    async def write_then_read(number: int) -> None:
        ref = config(f"k{number}")
        commit = await storage.write(put(ref, number))
        view = await storage.get([ref])
        assert view.revision >= commit.revision
        assert view.get(ref) == commit.changes[0].record

    await asyncio.gather(*(write_then_read(number) for number in range(WRITERS)))


async def test_view_is_of_one_revision(storage: Storage) -> None:
    refs = [config("left"), config("right")]
    writing = True

    async def write() -> None:
        nonlocal writing
        for value in range(100):
            await storage.write(batch(*(Put(ref, {"value": value}, Action.UPDATE) for ref in refs)))
        writing = False

    async def read() -> None:
        while writing:
            view = await storage.get(refs)
            values = [(record.revision, record.body["value"]) for record in view.records.values()]
            assert values in ([], [(view.revision, view.revision - 1)] * 2)

    async with asyncio.timeout(60):
        await asyncio.gather(write(), read(), read())


class TestLogRead:
    @staticmethod
    async def fill(storage: Storage) -> list[Change]:
        """Revisions of 1, 3, 1 and 2 changes."""
        changes: list[Change] = []
        for keys in ("a", "bcd", "e", "fg"):
            commit = await storage.write(batch(*(Put(config(key), {}, Action.CREATE) for key in keys)))
            changes.extend(commit.changes)
        return changes

    async def test_returns_changes_oldest_first(self, storage: Storage) -> None:
        changes = await self.fill(storage)
        assert list(await storage.read(0, 100)) == changes
        assert list(await storage.read(2, 100)) == changes[4:]
        assert await storage.read(4, 100) == ()

    @pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 4), (3, 4), (4, 4), (5, 5), (6, 7), (7, 7), (8, 7)])
    async def test_does_not_split_a_revision(self, storage: Storage, limit: int, count: int) -> None:
        changes = await self.fill(storage)
        assert list(await storage.read(0, limit)) == changes[:count]

    async def test_read_after_the_newest_revision_is_out_of_range(self, storage: Storage) -> None:
        await self.fill(storage)
        with pytest.raises(RevisionOutOfRange) as caught:
            await storage.read(5, 1)
        assert caught.value.metadata == {"oldest_revision": "0", "current_revision": "4"}


async def test_log_explains_all_concurrent_outcomes(storage: Storage) -> None:
    """Creates, deletes and failures of the same keys at once: the log explains each outcome."""

    async def attempt(number: int) -> int:
        ref = config(f"k{number % 3}")
        write = (create(ref), remove(ref), put(ref, number), raising(AlreadyExists("no"), ref))[number % 4]
        try:
            return (await storage.write(write)).revision
        except ServiceError:
            return 0

    made = await asyncio.gather(*(attempt(number) for number in range(200)))
    acknowledged = sorted(revision for revision in made if revision)
    assert acknowledged == await revisions(storage) == list(range(1, len(acknowledged) + 1))
    live: dict[str, bool] = {}
    for change in await storage.read(0, 1_000):
        assert (change.before is not None) == live.get(change.ref.key, False)
        live[change.ref.key] = change.after is not None
