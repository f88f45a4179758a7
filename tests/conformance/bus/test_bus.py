"""What `bus/port.py` promises, on every backend.

A message may be lost, duplicated, late or out of order, so no test counts messages. On a backend that works, the last
announcement arrives eventually.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from configsvc.bus.port import Bus
from configsvc.domain.records import Action, Change, Kind, Ref

OpenBus = Callable[[], Awaitable[Bus]]
# Far above the latency of any backend: reached only if a test fails.
PATIENCE_SECONDS = 30.0
AT = datetime(2025, 1, 1, tzinfo=UTC)


def change(revision: int, ordinal: int = 0) -> Change:
    ref = Ref(Kind.CONFIG, "test", "svc", f"key-{revision}-{ordinal}")
    return Change(revision, ordinal, ref, Action.CREATE, 1, None, {"value": 1}, 0, AT, "tester", "", "", AT)


async def received(messages: AsyncIterator[int], revision: int) -> list[int]:
    """All messages up to the first one at or above `revision`."""
    revisions = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for reached in messages:
            revisions.append(reached)
            if reached >= revision:
                return revisions
    raise AssertionError(f"the bus ended at {revisions}, before {revision}")


async def test_announcement_reaches_the_replica_that_made_it(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([change(7)])
    assert await received(messages, 7) == [7]


async def test_announcement_reaches_every_other_replica(open_bus: OpenBus) -> None:
    here, there, elsewhere = await open_bus(), await open_bus(), await open_bus()
    subscriptions = [there.subscribe(), elsewhere.subscribe()]
    here.announce([change(7)])
    for messages in subscriptions:
        assert (await received(messages, 7))[-1] == 7


async def test_announcement_reaches_every_subscriber_of_a_replica(bus: Bus) -> None:
    subscriptions = [bus.subscribe() for _ in range(5)]
    bus.announce([change(3)])
    for messages in subscriptions:
        assert (await received(messages, 3))[-1] == 3


async def test_subscription_begins_with_the_call_and_not_with_the_first_step(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([change(1)])
    assert (await received(messages, 1))[-1] == 1


async def test_subscriber_gets_no_earlier_announcement(bus: Bus) -> None:
    early = bus.subscribe()
    bus.announce([change(1_000)])
    await received(early, 1_000)
    late = bus.subscribe()
    bus.announce([change(1_001)])
    assert await received(late, 1_001) == [1_001]


async def test_several_changes_announce_the_revision_of_the_last(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([change(4), change(5, 0), change(5, 1), change(6)])
    assert (await received(messages, 6))[-1] == 6


async def test_only_announced_revisions_are_received(bus: Bus) -> None:
    messages = bus.subscribe()
    for revision in (10, 20, 30):
        bus.announce([change(revision)])
    assert set(await received(messages, 30)) <= {10, 20, 30}


async def test_announcing_no_change_sends_nothing(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([])
    bus.announce([change(2)])
    assert await received(messages, 2) == [2]


async def test_slow_subscriber_gets_the_highest_revision_that_it_missed(bus: Bus) -> None:
    slow, quick = bus.subscribe(), bus.subscribe()
    for revision in range(1, 1_001):
        bus.announce([change(revision)])
    await received(quick, 1_000)
    assert (await received(slow, 1_000))[-1] == 1_000


async def test_announcing_does_not_wait_for_a_subscriber(bus: Bus) -> None:
    """It is not a coroutine, and a subscriber that takes nothing delays nobody."""
    never = bus.subscribe()
    messages = bus.subscribe()
    for revision in range(1, 10_001):
        bus.announce([change(revision)])
    assert (await received(messages, 10_000))[-1] == 10_000
    assert never is not messages


async def test_dropped_subscription_does_not_disturb_others(bus: Bus) -> None:
    dropped = bus.subscribe()
    del dropped
    gc.collect()
    messages = bus.subscribe()
    bus.announce([change(1)])
    assert (await received(messages, 1))[-1] == 1


async def test_cancelled_subscriber_can_continue_later(bus: Bus) -> None:
    messages = bus.subscribe()
    waiting = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    bus.announce([change(1)])
    assert (await received(messages, 1))[-1] == 1


async def test_closing_ends_the_subscriptions(bus: Bus) -> None:
    waiting = [asyncio.ensure_future(anext(bus.subscribe(), None)) for _ in range(3)]
    idle = bus.subscribe()
    await asyncio.sleep(0)
    await bus.__aexit__(None, None, None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await asyncio.gather(*waiting) == [None, None, None]
        assert [revision async for revision in idle] == []


async def test_closed_bus_accepts_announcements_and_ends_new_subscriptions(bus: Bus) -> None:
    await bus.__aexit__(None, None, None)
    bus.announce([change(1)])
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert [revision async for revision in bus.subscribe()] == []


async def test_ping_succeeds_if_the_backend_answers(bus: Bus) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await bus.ping()


async def test_name_is_one_lower_case_word(bus: Bus) -> None:
    assert bus.name
    assert bus.name == bus.name.strip().lower()
