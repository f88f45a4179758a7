"""What each replica shows of the outbox, while the relay of one of them publishes or fails."""

import asyncio
from pathlib import Path

import pytest

from configsvc.app.changelog.outbox.health import OutboxHealth
from configsvc.errors import Unavailable
from tests.app.changelog.memory_outbox import MemoryOutbox
from tests.app.changelog.memory_publisher import AT, MemoryPublisher, change
from tests.app.changelog.relays import PATIENCE_SECONDS, SkippingClock, answering_bus, running, until
from tests.app.fake_clock import FakeClock
from tests.app.replica import config, open_storage, write


async def test_failure_is_shown_by_every_replica_until_publishing_works(tmp_path: Path) -> None:
    clock, publisher = FakeClock(), MemoryPublisher()
    publisher.away = True

    async with open_storage(tmp_path) as storage:
        elsewhere = OutboxHealth(answering_bus, storage, clock)
        await elsewhere.ping()
        assert elsewhere.degradation() == elsewhere.note() == ""
        for number in range(3):
            await write(storage, (config("key"), number))
        async with running(storage, publisher, clock) as relay:
            since = clock.now().isoformat()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (await storage.outbox_status()).failure:  # noqa: ASYNC110 - storage has threads
                    await asyncio.sleep(0.001)
            await clock.advance(10)
            await elsewhere.ping()
            assert elsewhere.degradation() == f"the topic is away; 3 changes waiting, the oldest since {since}"
            publisher.away = False
            await clock.advance(10)
            await until(lambda: relay.published == 3)
        await elsewhere.ping()
        assert elsewhere.degradation() == elsewhere.note() == ""


async def test_waiting_changes_are_shown_although_the_lease_holder_reports_nothing(tmp_path: Path) -> None:
    clock, publisher = FakeClock(), MemoryPublisher()
    publisher.gate = asyncio.Event()

    async with open_storage(tmp_path) as storage:
        health = OutboxHealth(answering_bus, storage, clock)
        await write(storage, (config("key"), 1))
        async with running(storage, publisher, clock) as relay:
            await until(lambda: publisher.calls == 1)
            await clock.advance(2)
            await health.ping()
            assert health.note().startswith("1 changes waiting, the oldest since 2025-01-01T00:00:00")
            await clock.advance(10)
            await health.ping()
            assert health.degradation().startswith("events leave late; 1 changes waiting")
            publisher.gate.set()
            await until(lambda: relay.published == 1)
        await health.ping()
        assert health.degradation() == health.note() == ""


async def test_incomplete_event_is_counted_once_and_shown_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, publisher = SkippingClock(), MemoryPublisher(limit_bytes=1_000)

    async with open_storage(tmp_path) as storage:
        health = OutboxHealth(answering_bus, storage, clock)
        await write(storage, (config("small"), 1))
        # The second is torn off, so that the first is settled and its revision is not.
        await write(storage, (config("large"), "x" * 2_000), (config("other"), 1))
        await write(storage, (config("k" * 500), "x" * 2_000))
        publisher.tear_after = 2
        async with running(storage, publisher, clock) as relay:
            await until(lambda: relay.failure is not None)
            publisher.away = False
            await until(lambda: relay.published == 3)
        await health.ping()
        note = health.note()
    assert note.startswith(
        "1 events were published incomplete, 1 not at all; the last: revision 3 (config test/svc/kkk"
    )
    assert "max.message.bytes" in note
    assert next(record.getMessage() for record in caplog.records if "incomplete" in record.getMessage()).startswith(
        "an event is incomplete: revision 2 (config test/svc/large) was published without its value: it has 2"
    )


async def test_change_is_mentioned_after_one_second_and_late_after_five() -> None:
    clock = FakeClock(AT)
    outbox = MemoryOutbox(clock, [change(1, 1)])
    health = OutboxHealth(answering_bus, outbox, clock)
    shown = []
    for seconds in (0.9, 0.1, 3.9, 0.1):
        await clock.advance(seconds)
        await health.ping()
        shown.append((bool(health.note()), bool(health.degradation())))
    assert shown == [(False, False), (True, False), (True, False), (True, True)]


async def test_outbox_is_read_although_the_bus_does_not_answer() -> None:
    clock = FakeClock(AT)

    async def silent_bus() -> None:
        raise Unavailable("the bus is away")

    health = OutboxHealth(silent_bus, MemoryOutbox(clock, [change(1, 1), change(2, 2)]), clock)
    with pytest.raises(Unavailable, match="the bus is away"):
        await health.ping()
    assert await health.effect() == f"2 changes waiting, the oldest since {AT.isoformat()}"


async def test_outbox_that_cannot_be_read_is_neither_late_nor_empty() -> None:
    clock = FakeClock(AT)
    outbox = MemoryOutbox(clock, [change(1, 1)])
    health = OutboxHealth(answering_bus, outbox, clock)
    await clock.advance(10)
    await health.ping()
    assert health.degradation()
    outbox.away = True
    await health.ping()
    assert health.degradation() == health.note() == ""
    assert await health.effect() == "changes wait in the outbox"
