"""The queue of what is to be reconciled with the registry."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from configsvc.app.registry.ownership.reconcile_queue import (
    LONGEST_PAUSE_SECONDS,
    SHORTEST_PAUSE_SECONDS,
    AllChanged,
    ReconcileItem,
    ReconcileQueue,
)
from configsvc.registry.port import NodesChanged, ReplicasChanged
from tests.app.fake_clock import FakeClock

FIRST, SECOND = NodesChanged("first"), NodesChanged("second")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def queue(clock: FakeClock) -> AsyncIterator[ReconcileQueue]:
    """A queue whose failed items are retried."""
    queue = ReconcileQueue(clock)
    retries = asyncio.create_task(queue.run_retries())
    yield queue
    retries.cancel()


def take_all(queue: ReconcileQueue) -> list[ReconcileItem]:
    taken = []
    while (item := queue.take()) is not None:
        taken.append(item)
    return taken


async def test_equal_items_are_merged_at_the_end(queue: ReconcileQueue) -> None:
    for item in (FIRST, SECOND, FIRST):
        queue.add(item)
    assert take_all(queue) == [SECOND, FIRST]


async def test_replica_that_is_gone_comes_first(queue: ReconcileQueue) -> None:
    for item in (FIRST, ReplicasChanged(), SECOND):
        queue.add(item)
    assert take_all(queue) == [ReplicasChanged(), FIRST, SECOND]


async def test_failed_item_is_pending_again_after_the_pause(queue: ReconcileQueue, clock: FakeClock) -> None:
    queue.retry(FIRST)
    assert queue.has_failed
    assert queue.take() is None
    await clock.asleep()
    await clock.advance(SHORTEST_PAUSE_SECONDS)
    assert not queue.has_failed
    assert take_all(queue) == [FIRST]


async def test_retry_keeps_the_place_of_an_equal_item_that_is_pending(queue: ReconcileQueue, clock: FakeClock) -> None:
    queue.retry(FIRST)
    queue.add(FIRST)
    queue.add(SECOND)
    await clock.asleep()
    await clock.advance(SHORTEST_PAUSE_SECONDS)
    assert take_all(queue) == [FIRST, SECOND]


async def test_pause_grows_up_to_its_bound_and_is_the_shortest_after_a_success(
    queue: ReconcileQueue, clock: FakeClock
) -> None:
    async def pause() -> float:
        """The seconds until a failed item is pending again."""
        began = clock.monotonic()
        queue.retry(FIRST)
        await clock.asleep()
        while queue.has_failed:
            await clock.advance(0.05)
        assert queue.take() == FIRST
        return clock.monotonic() - began

    assert await pause() <= SHORTEST_PAUSE_SECONDS + 0.05
    assert await pause() >= SHORTEST_PAUSE_SECONDS
    for _ in range(10):
        assert await pause() <= LONGEST_PAUSE_SECONDS + 0.05
    assert queue.take() is None, "nothing failed: the back-off begins again"
    assert await pause() <= SHORTEST_PAUSE_SECONDS + 0.05


async def test_cleared_queue_has_nothing_pending_and_nothing_to_retry(queue: ReconcileQueue, clock: FakeClock) -> None:
    queue.add(AllChanged())
    queue.retry(FIRST)
    queue.clear()
    assert not queue.has_failed
    await clock.asleep()
    await clock.advance(LONGEST_PAUSE_SECONDS)
    assert take_all(queue) == []


async def test_wait_ends_when_an_item_is_added(queue: ReconcileQueue) -> None:
    waiting = asyncio.create_task(queue.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.add(FIRST)
    await waiting
    assert take_all(queue) == [FIRST]
