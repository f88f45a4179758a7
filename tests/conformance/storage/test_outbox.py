"""What `storage/port.py` promises of the outbox, whichever database keeps the promise."""

import asyncio

import pytest

from configsvc.errors import RevisionOutOfRange
from configsvc.storage.port import Keep, Storage
from tests.conformance.storage.writing import StorageFactory, config, put

PATIENCE_SECONDS = 30.0


async def write_some(storage: Storage, count: int) -> None:
    for number in range(count):
        await storage.write(put(config(f"key-{number}"), number))


async def test_nothing_is_published_at_first_and_the_cursor_survives(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        await write_some(storage, 3)
        async with storage.turn() as turn:
            assert await turn.published() == 0
            await turn.advance(2)
            assert await turn.published() == 2
    async with open_storage() as storage, storage.turn() as turn:
        assert await turn.published() == 2


async def test_one_has_the_turn_and_the_next_waits_for_its_end(storage: Storage) -> None:
    order: list[str] = []

    async def second() -> None:
        async with storage.turn():
            order.append("second")

    async with storage.turn():
        waiting = asyncio.create_task(second())
        # Whatever the waiter can do by itself, it has done when a write and a read have gone round.
        await write_some(storage, 3)
        order.append("first")
        assert not waiting.done()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waiting
    assert order == ["first", "second"]


async def test_a_waiter_that_gives_up_leaves_the_turn_to_others(storage: Storage) -> None:
    async with storage.turn():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), storage.turn():
                raise AssertionError("two had the turn")
    async with asyncio.timeout(PATIENCE_SECONDS), storage.turn() as turn:
        assert await turn.published() == 0


async def test_a_write_is_news(storage: Storage) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), storage.turn() as turn:
        await turn.news(within_seconds=0.01)
        news = asyncio.create_task(turn.news(within_seconds=PATIENCE_SECONDS))
        await write_some(storage, 1)
        await news


async def test_compaction_spares_what_is_not_published(storage: Storage) -> None:
    await write_some(storage, 10)
    assert await storage.compact(Keep(2, unpublished=True)) == 0
    async with storage.turn() as turn:
        await turn.advance(5)
    assert await storage.compact(Keep(2, unpublished=True)) == 5
    assert [change.revision for change in await storage.read(5, 100)] == [6, 7, 8, 9, 10]
    async with storage.turn() as turn:
        await turn.advance(10)
    assert await storage.compact(Keep(2, unpublished=True)) == 8
    with pytest.raises(RevisionOutOfRange):
        await storage.read(5, 100)


async def test_compaction_with_fewer_changes_than_are_kept_forgets_nothing(storage: Storage) -> None:
    await write_some(storage, 3)
    async with storage.turn() as turn:
        await turn.advance(3)
    assert await storage.compact(Keep(100, unpublished=True)) == 0
    assert await storage.compact(Keep(0, unpublished=True)) == 3
