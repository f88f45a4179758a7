"""Callers that wait for a revision, or catch up."""

import asyncio

import pytest

from configsvc.app.changelog.tail import CATCH_UP_SECONDS
from configsvc.errors import Unavailable
from configsvc.storage.port import RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import Replica, config, open_replica, write

pytestmark = pytest.mark.timeout(60)


async def test_waiting_for_an_applied_revision_returns_at_once(replica: Replica) -> None:
    await replica.put(config("a"), 1)
    await replica.tail.wait_for(1, 0)
    await replica.tail.wait_for(0, None)


async def test_waiting_for_a_revision_of_another_replica_reads_the_log(replica: Replica, clock: FakeClock) -> None:
    """Without an announcement, and before the poll."""
    await clock.asleep()
    await write(replica.storage, (config("a"), 1))
    await replica.tail.wait_for(1, 10)
    assert replica.tail.applied == 1
    assert clock.monotonic() == 0


async def test_revision_that_is_not_applied_in_time_is_unavailable(replica: Replica, clock: FakeClock) -> None:
    await replica.put(config("a"), 1)
    waiting = asyncio.ensure_future(replica.tail.wait_for(5, 2))
    await clock.advance(1.9)
    assert not waiting.done()
    await clock.advance(0.2)
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "REVISION_NOT_REACHED"
    assert caught.value.metadata == {"applied": "1", "required": "5"}


async def test_each_waiter_is_woken_by_its_revision(replica: Replica) -> None:
    waiting = [asyncio.ensure_future(replica.tail.wait_for(revision, None)) for revision in (3, 1, 2, 2, 9)]
    gone = asyncio.ensure_future(replica.tail.wait_for(2, None))
    await settle()
    gone.cancel()
    await replica.put(config("a"), 1)
    await replica.put(config("a"), 2)
    await settle()
    assert [task.done() for task in waiting] == [False, True, True, True, False]
    await replica.put(config("a"), 3)
    await waiting[0]
    waiting[4].cancel()


async def test_closing_ends_the_waiting(storage: Storage, clock: FakeClock) -> None:
    async with open_replica(storage, clock) as replica:
        waiting = asyncio.ensure_future(replica.tail.wait_for(5, None))
        await settle()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "SHUTTING_DOWN"
    with pytest.raises(Unavailable):
        await replica.tail.wait_for(5, None)


async def test_waiter_is_woken_when_the_tail_skips_compacted_changes(replica: Replica) -> None:
    for value in range(20):
        await write(replica.storage, (config("a"), value))
    await replica.storage.compact(RetentionPolicy(3))
    await replica.tail.wait_for(20, None)


async def test_catch_up_applies_what_was_committed_before_the_call(replica: Replica, clock: FakeClock) -> None:
    # The tail's first read is over: it must not be this read that applies the write.
    await clock.asleep()
    assert not await replica.tail.catch_up()
    commit = await write(replica.storage, (config("a"), 1))
    assert await replica.tail.catch_up()
    assert replica.tail.applied == commit.revision


async def test_concurrent_callers_of_catch_up_share_a_read(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    await write(replica.storage, (config("a"), 1))
    states = replica.reader.states
    assert any(await asyncio.gather(*(replica.tail.catch_up() for _ in range(50))))
    assert replica.reader.states <= states + 2


async def test_catch_up_finds_nothing_and_raises_nothing_if_the_log_is_down(replica: Replica) -> None:
    await write(replica.storage, (config("a"), 1))
    replica.reader.is_down = True
    assert not await replica.tail.catch_up()


async def test_catch_up_gives_up_on_a_log_that_does_not_answer(replica: Replica, clock: FakeClock) -> None:
    await clock.asleep()
    await write(replica.storage, (config("a"), 1))
    replica.reader.release = asyncio.Event()
    catching_up = asyncio.ensure_future(replica.tail.catch_up())
    await replica.reader.is_holding.wait()
    await clock.advance(CATCH_UP_SECONDS - 0.01)
    assert not catching_up.done()
    await clock.advance(0.01)
    assert await catching_up is False
    replica.reader.release.set()
