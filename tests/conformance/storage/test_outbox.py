"""What `storage/port` promises of the outbox."""

import asyncio

import pytest

from configsvc.domain.events import EventForm, EventLoss, Refusal, RefusalReason
from configsvc.errors import RevisionOutOfRange
from configsvc.storage.port import RetentionPolicy, Storage
from tests.conformance.storage.writing import StorageFactory, config, put

TIMEOUT_SECONDS = 30.0


async def write_some(storage: Storage, count: int) -> None:
    for number in range(count):
        await storage.write(put(config(f"key-{number}"), number))


async def test_cursor_starts_at_zero_and_survives_a_restart(open_storage: StorageFactory) -> None:
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


async def test_status_can_be_read_without_the_lease(storage: Storage) -> None:
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


async def test_losses_are_counted_and_the_last_one_is_stored(open_storage: StorageFactory) -> None:
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


async def test_compacted_changes_do_not_wait(storage: Storage) -> None:
    await write_some(storage, 5)
    assert await storage.compact(RetentionPolicy(2)) == 3
    assert (await storage.outbox_status()).waiting == 2


async def test_lease_is_usable_after_keep_alive(storage: Storage) -> None:
    await write_some(storage, 1)
    async with storage.outbox_lease() as lease:
        await lease.keep_alive()
        await lease.advance(1)


async def test_second_holder_waits_until_the_lease_is_released(storage: Storage) -> None:
    order: list[str] = []

    async def second() -> None:
        async with storage.outbox_lease():
            order.append("second")

    async with storage.outbox_lease():
        waiting = asyncio.create_task(second())
        # After these writes the waiter has got as far as it can.
        await write_some(storage, 3)
        order.append("first")
        assert not waiting.done()
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await waiting
    assert order == ["first", "second"]


async def test_cancelled_waiter_does_not_block_the_lease(storage: Storage) -> None:
    async with storage.outbox_lease():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), storage.outbox_lease():
                raise AssertionError("two holders have the lease")
    async with asyncio.timeout(TIMEOUT_SECONDS), storage.outbox_lease() as lease:
        assert await lease.published() == 0


async def test_write_wakes_the_lease_holder(storage: Storage) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS), storage.outbox_lease() as lease:
        await lease.wait_for_changes(within_seconds=0.01)
        wake_up = asyncio.create_task(lease.wait_for_changes(within_seconds=TIMEOUT_SECONDS))
        await write_some(storage, 1)
        await wake_up


async def test_compaction_keeps_unpublished_changes(storage: Storage) -> None:
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


async def test_compaction_deletes_nothing_if_the_policy_keeps_more_changes(storage: Storage) -> None:
    await write_some(storage, 3)
    async with storage.outbox_lease() as lease:
        await lease.advance(3)
    assert await storage.compact(RetentionPolicy(100, unpublished=True)) == 0
    assert await storage.compact(RetentionPolicy(0, unpublished=True)) == 3
