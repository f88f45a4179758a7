"""The relay over an outbox and a topic in memory: pauses, the lease, and what is told about failures."""

import asyncio
from collections.abc import Sequence

import pytest

from configsvc.app.changelog.outbox.relay import LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS
from configsvc.bus.port import Receipt
from configsvc.domain.records import Change
from tests.app.changelog.memory_outbox import MemoryOutbox
from tests.app.changelog.memory_publisher import MemoryPublisher, change
from tests.app.changelog.relays import SkippingClock, revisions, running, until
from tests.app.fake_clock import FakeClock


@pytest.fixture
def publisher() -> MemoryPublisher:
    return MemoryPublisher()


def changes(number: int) -> list[Change]:
    return [change(revision, revision) for revision in range(1, number + 1)]


async def test_pauses_while_no_lease_can_be_acquired_grow_to_a_bound(publisher: MemoryPublisher) -> None:
    clock = SkippingClock()
    outbox = MemoryOutbox(clock, changes(1))
    outbox.away = True
    async with running(outbox, publisher, clock) as relay:
        await until(lambda: len(clock.pauses) > 20)
        assert clock.pauses[0] <= SHORTEST_PAUSE_SECONDS
        assert min(clock.pauses[10:]) >= LONGEST_PAUSE_SECONDS / 2
        assert max(clock.pauses) <= LONGEST_PAUSE_SECONDS
        assert relay.failure is not None
        assert publisher.calls == 0


async def test_first_pause_after_a_lease_was_held_is_short(publisher: MemoryPublisher) -> None:
    clock = SkippingClock()
    outbox = MemoryOutbox(clock, changes(1))
    outbox.away = True
    publisher.gate = asyncio.Event()
    async with running(outbox, publisher, clock):
        await until(lambda: len(clock.pauses) > 20)
        outbox.away = False
        await until(lambda: publisher.calls == 1)
        before = len(clock.pauses)
        # The lease is lost while the batch is published.
        outbox.away = True
        publisher.gate.set()
        await until(lambda: len(clock.pauses) > before + 1)
        assert clock.pauses[before] <= SHORTEST_PAUSE_SECONDS


async def test_pauses_while_the_broker_takes_nothing_grow_to_a_bound(publisher: MemoryPublisher) -> None:
    clock = SkippingClock()
    outbox = MemoryOutbox(clock, changes(1))
    publisher.away = True
    async with running(outbox, publisher, clock):
        await until(lambda: len(clock.pauses) > 20)
        assert min(clock.pauses[10:]) >= LONGEST_PAUSE_SECONDS / 2
        assert max(clock.pauses) <= LONGEST_PAUSE_SECONDS
        assert (outbox.leases, outbox.keep_alives >= 20) == (1, True), "the lease is kept meanwhile"


async def test_failure_is_over_when_the_lease_is_acquired(publisher: MemoryPublisher) -> None:
    """Although the broker has not acknowledged anything yet."""
    clock = SkippingClock()
    outbox = MemoryOutbox(clock, changes(1))
    outbox.away = True
    publisher.gate = asyncio.Event()
    async with running(outbox, publisher, clock) as relay:
        await until(lambda: relay.failure is not None)
        outbox.away = False
        await until(lambda: publisher.calls == 1)
        assert relay.failure is None


async def test_failure_lasts_until_an_event_is_acknowledged(publisher: MemoryPublisher) -> None:
    clock = FakeClock()
    outbox = MemoryOutbox(clock, changes(2))
    publisher.away = True
    async with running(outbox, publisher, clock) as relay:
        await clock.advance(0)
        since = clock.now()
        await clock.advance(60)
        assert relay.failure is not None
        assert (relay.failure.since, relay.failure.reason) == (since, "the topic is away")
        publisher.away = False
        await clock.advance(LONGEST_PAUSE_SECONDS)
        assert relay.failure is None
        assert revisions(publisher) == [1, 2]
        assert outbox.cursor == 2


async def test_failure_is_over_although_more_batches_are_pending() -> None:
    class HangsAfterOneBatch(MemoryPublisher):
        async def publish(self, changes: Sequence[Change]) -> Receipt:
            receipt = await super().publish(changes)
            if receipt.deliveries:
                self.gate = asyncio.Event()
            return receipt

    clock = FakeClock()
    outbox = MemoryOutbox(clock, changes(2))
    publisher = HangsAfterOneBatch(batch_changes=1)
    publisher.away = True
    async with running(outbox, publisher, clock) as relay:
        await clock.advance(1)
        assert relay.failure is not None
        publisher.away = False
        await clock.advance(LONGEST_PAUSE_SECONDS)
        assert revisions(publisher) == [1]
        assert relay.failure is None


async def test_each_reason_is_reported_once_until_an_event_is_acknowledged(publisher: MemoryPublisher) -> None:
    clock = FakeClock()
    outbox = MemoryOutbox(clock, changes(1))
    publisher.away = True
    async with running(outbox, publisher, clock):
        await clock.advance(60)
        assert publisher.calls > 10
        assert outbox.failures == ["the topic is away"]
        publisher.away = False
        await clock.advance(60)
        publisher.away = True
        outbox.changes.append(change(2, 2))
        await clock.advance(60)
        assert outbox.failures == ["the topic is away"] * 2


async def test_lease_is_kept_alive_while_the_broker_hangs(publisher: MemoryPublisher) -> None:
    clock = FakeClock()
    outbox = MemoryOutbox(clock, changes(1))
    publisher.gate = asyncio.Event()
    async with running(outbox, publisher, clock) as relay:
        await clock.advance(10)
        assert (publisher.calls, outbox.keep_alives) == (1, 10)
        publisher.gate.set()
        await clock.advance(0)
        assert relay.published == outbox.cursor == 1


async def test_batch_is_given_up_when_the_lease_is_lost(publisher: MemoryPublisher) -> None:
    clock = FakeClock()
    outbox = MemoryOutbox(clock, changes(1))
    publisher.gate = asyncio.Event()
    async with running(outbox, publisher, clock) as relay:
        await clock.advance(0)
        outbox.away = True
        await clock.advance(1)
        assert relay.failure is not None
        publisher.gate.set()
        await clock.advance(1)
        assert revisions(publisher) == []


async def test_relay_with_nothing_to_publish_waits_for_changes(publisher: MemoryPublisher) -> None:
    clock = FakeClock()
    outbox = MemoryOutbox(clock)
    async with running(outbox, publisher, clock) as relay:
        await clock.advance(10)
        assert (publisher.calls, outbox.waits, relay.failure) == (0, 11, None)
        outbox.changes += changes(3)
        await clock.advance(1)
        assert revisions(publisher) == [1, 2, 3]


async def test_unexpected_error_is_a_failure_and_the_lease_is_acquired_again(
    publisher: MemoryPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    outbox = MemoryOutbox(clock, changes(1))
    publisher.error = RuntimeError("a bug")
    async with running(outbox, publisher, clock) as relay:
        await clock.advance(0)
        assert relay.failure is not None
        assert relay.failure.reason == "a bug"
        publisher.error = None
        await clock.advance(1)
        assert (outbox.leases, relay.published) == (2, 1)
    assert "the outbox relay failed" in caplog.text
