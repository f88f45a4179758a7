"""What `storage/port.py` promises of the outbox, whichever database keeps the promise."""

import asyncio

import pytest

from configsvc.domain.events import EventForm, EventLoss, Refusal, RefusalReason
from configsvc.errors import RevisionOutOfRange
from configsvc.storage.port import RetentionPolicy, Storage
from tests.conformance.storage.writing import StorageFactory, config, put

PATIENCE_SECONDS = 30.0


async def write_some(storage: Storage, count: int) -> None:
    for number in range(count):
        await storage.write(put(config(f"key-{number}"), number))


async def test_nothing_is_published_at_first_and_the_cursor_survives(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        await write_some(storage, 3)
        async with storage.outbox_lease() as lease:
            assert await lease.published() == 0
            await lease.advance(2)
            assert await lease.published() == 2
    async with open_storage() as storage, storage.outbox_lease() as lease:
        assert await lease.published() == 2


def loss(revision: int, form: EventForm) -> EventLoss:
    return EventLoss(revision, config(f"key-{revision}"), form, Refusal(RefusalReason.TOO_LARGE, 2_000, 1_000))


async def test_the_backlog_is_told_to_everyone_whoever_has_the_turn(storage: Storage) -> None:
    nothing = await storage.outbox_status()
    assert (nothing.published, nothing.waiting, nothing.waiting_since, nothing.failure) == (0, 0, None, "")
    await write_some(storage, 3)
    async with storage.outbox_lease() as lease:
        status = await storage.outbox_status()
        (oldest, _, _) = await storage.read(0, 100)
        assert (status.published, status.waiting, status.waiting_since) == (0, 3, oldest.at)
        await lease.report_failure("the topic is closed")
        await lease.advance(1)
        await lease.report_failure("the topic is closed again")
        status = await storage.outbox_status()
        assert (status.published, status.waiting, status.failure) == (1, 2, "the topic is closed again")
        await lease.advance(3)
    done = await storage.outbox_status()
    assert (done.published, done.waiting, done.waiting_since, done.failure) == (3, 0, None, "")


async def test_what_left_incomplete_is_counted_and_the_last_is_remembered(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        await write_some(storage, 6)
        async with storage.outbox_lease() as lease:
            await lease.advance(
                3, [loss(1, EventForm.WITHOUT_VALUE), loss(2, EventForm.BARE), loss(3, EventForm.SKIPPED)]
            )
            await lease.advance(4)
            await lease.advance(5, [loss(5, EventForm.WITHOUT_VALUE)])
    async with open_storage() as storage:
        status = await storage.outbox_status()
        assert (status.reduced, status.skipped) == (3, 1)
        assert status.last_loss == loss(5, EventForm.WITHOUT_VALUE)


async def test_what_was_compacted_away_before_there_was_a_bus_does_not_wait(storage: Storage) -> None:
    await write_some(storage, 5)
    assert await storage.compact(RetentionPolicy(2)) == 3
    assert (await storage.outbox_status()).waiting == 2


async def test_a_turn_that_is_kept_goes_on(storage: Storage) -> None:
    await write_some(storage, 1)
    async with storage.outbox_lease() as lease:
        await lease.keep_alive()
        await lease.advance(1)


async def test_one_has_the_turn_and_the_next_waits_for_its_end(storage: Storage) -> None:
    order: list[str] = []

    async def second() -> None:
        async with storage.outbox_lease():
            order.append("second")

    async with storage.outbox_lease():
        waiting = asyncio.create_task(second())
        # Whatever the waiter can do by itself, it has done when a write and a read have gone round.
        await write_some(storage, 3)
        order.append("first")
        assert not waiting.done()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waiting
    assert order == ["first", "second"]


async def test_a_waiter_that_gives_up_leaves_the_turn_to_others(storage: Storage) -> None:
    async with storage.outbox_lease():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), storage.outbox_lease():
                raise AssertionError("two had the turn")
    async with asyncio.timeout(PATIENCE_SECONDS), storage.outbox_lease() as lease:
        assert await lease.published() == 0


async def test_a_write_is_news(storage: Storage) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), storage.outbox_lease() as lease:
        await lease.wait_for_changes(within_seconds=0.01)
        wake_up = asyncio.create_task(lease.wait_for_changes(within_seconds=PATIENCE_SECONDS))
        await write_some(storage, 1)
        await wake_up


async def test_compaction_spares_what_is_not_published(storage: Storage) -> None:
    await write_some(storage, 10)
    assert await storage.compact(RetentionPolicy(2, unpublished=True)) == 0
    async with storage.outbox_lease() as lease:
        await lease.advance(5)
    assert await storage.compact(RetentionPolicy(2, unpublished=True)) == 5
    assert [change.revision for change in await storage.read(5, 100)] == [6, 7, 8, 9, 10]
    async with storage.outbox_lease() as lease:
        await lease.advance(10)
    assert await storage.compact(RetentionPolicy(2, unpublished=True)) == 8
    with pytest.raises(RevisionOutOfRange):
        await storage.read(5, 100)


async def test_compaction_with_fewer_changes_than_are_kept_forgets_nothing(storage: Storage) -> None:
    await write_some(storage, 3)
    async with storage.outbox_lease() as lease:
        await lease.advance(3)
    assert await storage.compact(RetentionPolicy(100, unpublished=True)) == 0
    assert await storage.compact(RetentionPolicy(0, unpublished=True)) == 3
