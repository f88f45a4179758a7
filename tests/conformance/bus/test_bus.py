"""What `bus/port.py` promises, whichever backend keeps the promise.

A message may be lost, doubled, late or out of order: so nothing here counts messages. On a backend that works, what is
announced last is heard in the end.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from configsvc.bus.port import Bus
from configsvc.domain.records import Action, Change, Kind, Ref

OpenBus = Callable[[], Awaitable[Bus]]
# Far beyond any backend's latency: reached only where the test fails.
PATIENCE_SECONDS = 30.0
AT = datetime(2025, 1, 1, tzinfo=UTC)


def change(revision: int, ordinal: int = 0) -> Change:
    ref = Ref(Kind.CONFIG, "test", "svc", f"key-{revision}-{ordinal}")
    return Change(revision, ordinal, ref, Action.CREATE, 1, None, {"value": 1}, 0, AT, "tester", "", "", AT)


async def heard(messages: AsyncIterator[int], revision: int) -> list[int]:
    """All messages up to the first that is at or above `revision`."""
    revisions = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for reached in messages:
            revisions.append(reached)
            if reached >= revision:
                return revisions
    raise AssertionError(f"the bus ended at {revisions}, before {revision}")


async def test_an_announcement_is_heard_by_the_replica_that_made_it(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([change(7)])
    assert await heard(messages, 7) == [7]


async def test_an_announcement_is_heard_by_every_other_replica(open_bus: OpenBus) -> None:
    here, there, elsewhere = await open_bus(), await open_bus(), await open_bus()
    listening = [there.subscribe(), elsewhere.subscribe()]
    here.announce([change(7)])
    for messages in listening:
        assert (await heard(messages, 7))[-1] == 7


async def test_every_subscriber_of_one_replica_hears(bus: Bus) -> None:
    listening = [bus.subscribe() for _ in range(5)]
    bus.announce([change(3)])
    for messages in listening:
        assert (await heard(messages, 3))[-1] == 3


async def test_a_subscriber_listens_from_the_call_on_not_from_its_first_step(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([change(1)])
    assert (await heard(messages, 1))[-1] == 1


async def test_a_subscriber_does_not_hear_what_came_before_it(bus: Bus) -> None:
    early = bus.subscribe()
    bus.announce([change(1_000)])
    await heard(early, 1_000)
    late = bus.subscribe()
    bus.announce([change(1_001)])
    assert await heard(late, 1_001) == [1_001]


async def test_several_changes_are_one_announcement_of_the_last(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([change(4), change(5, 0), change(5, 1), change(6)])
    assert (await heard(messages, 6))[-1] == 6


async def test_nothing_but_announced_revisions_is_heard(bus: Bus) -> None:
    messages = bus.subscribe()
    for revision in (10, 20, 30):
        bus.announce([change(revision)])
    assert set(await heard(messages, 30)) <= {10, 20, 30}


async def test_announcing_nothing_says_nothing(bus: Bus) -> None:
    messages = bus.subscribe()
    bus.announce([])
    bus.announce([change(2)])
    assert await heard(messages, 2) == [2]


async def test_a_slow_subscriber_gets_the_highest_of_what_it_missed(bus: Bus) -> None:
    slow, quick = bus.subscribe(), bus.subscribe()
    for revision in range(1, 1_001):
        bus.announce([change(revision)])
    await heard(quick, 1_000)
    assert (await heard(slow, 1_000))[-1] == 1_000


async def test_announcing_does_not_wait_for_a_subscriber(bus: Bus) -> None:
    """It is not even a coroutine; a subscriber that never listens holds up nobody."""
    never = bus.subscribe()
    messages = bus.subscribe()
    for revision in range(1, 10_001):
        bus.announce([change(revision)])
    assert (await heard(messages, 10_000))[-1] == 10_000
    assert never is not messages


async def test_a_subscriber_that_was_dropped_disturbs_nobody(bus: Bus) -> None:
    dropped = bus.subscribe()
    del dropped
    gc.collect()
    messages = bus.subscribe()
    bus.announce([change(1)])
    assert (await heard(messages, 1))[-1] == 1


async def test_a_subscriber_that_stops_waiting_can_go_on_later(bus: Bus) -> None:
    messages = bus.subscribe()
    waiting = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    bus.announce([change(1)])
    assert (await heard(messages, 1))[-1] == 1


async def test_closing_ends_the_iterators(bus: Bus) -> None:
    waiting = [asyncio.ensure_future(anext(bus.subscribe(), None)) for _ in range(3)]
    idle = bus.subscribe()
    await asyncio.sleep(0)
    await bus.__aexit__(None, None, None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await asyncio.gather(*waiting) == [None, None, None]
        assert [revision async for revision in idle] == []


async def test_a_closed_bus_takes_announcements_and_ends_new_iterators(bus: Bus) -> None:
    await bus.__aexit__(None, None, None)
    bus.announce([change(1)])
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert [revision async for revision in bus.subscribe()] == []


async def test_ping_returns_where_the_backend_answers(bus: Bus) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await bus.ping()


async def test_the_name_is_one_word_for_people(bus: Bus) -> None:
    assert bus.name
    assert bus.name == bus.name.strip().lower()
