"""The relay on a clock of the test's, over SQLite and a topic in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.app.changelog import outbox_relay as relays
from configsvc.app.changelog.outbox_health import OutboxHealth
from configsvc.app.changelog.outbox_relay import LONGEST_PAUSE_SECONDS, OutboxRelay
from configsvc.storage.port import Storage
from tests.app.changelog.memory_publisher import MemoryPublisher
from tests.app.fake_clock import FakeClock
from tests.app.replica import config, open_storage, write

# Reached only if a test fails.
PATIENCE_SECONDS = 30.0


class Sleeps(FakeClock):
    """Remembers how long it was slept, and lets nobody wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if (task := asyncio.current_task()) is not None and task.get_name() == "pause":
            # It only shows that the holder of the turn is alive.
            await super().sleep(seconds)
        else:
            self.pauses.append(seconds)
            self._seconds += seconds
            await asyncio.sleep(0)


@asynccontextmanager
async def running(
    storage: Storage, publisher: MemoryPublisher, clock: FakeClock | None = None
) -> AsyncIterator[OutboxRelay]:
    async with OutboxRelay(outbox=storage, log=storage, publisher=publisher, clock=clock or Sleeps()) as relay:
        yield relay


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - storage has threads, which settle by themselves
            await asyncio.sleep(0.001)


def revisions(publisher: MemoryPublisher) -> list[int]:
    return [event["revision"] for event in publisher.events]


async def test_what_is_acknowledged_is_not_published_again_though_the_rest_fails(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as storage:
        for number in range(40):
            await write(storage, (config(f"key-{number}"), number))
        publisher = MemoryPublisher()
        publisher.tear_after = 25
        async with running(storage, publisher) as relay:
            await until(lambda: relay.trouble is not None)
            await until(lambda: relay.published == 25)
            assert (await storage.outbox_status()).waiting == 15
            publisher.away = False
            await until(lambda: relay.published == 40)
        assert revisions(publisher) == list(range(1, 41)), "each once"


async def test_a_revision_of_several_changes_is_published_as_a_whole_before_the_cursor_passes_it(
    tmp_path: Path,
) -> None:
    async with open_storage(tmp_path) as storage:
        await write(storage, (config("first"), 1))
        await write(storage, *((config(f"key-{number}"), number) for number in range(10)))
        publisher = MemoryPublisher()
        publisher.tear_after = 5
        async with running(storage, publisher) as relay:
            await until(lambda: relay.trouble is not None)
            assert relay.published == (await storage.outbox_status()).published == 1
            publisher.away = False
            await until(lambda: relay.published == 2)
        assert Counter(revisions(publisher)) == {1: 1, 2: 10}, "what was acknowledged of it is not repeated"


async def test_a_relay_that_starts_again_repeats_at_most_one_revision(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as storage:
        for number in range(5):
            await write(storage, *((config(f"key-{number}-{part}"), number) for part in range(4)))
        publisher = MemoryPublisher()
        publisher.tear_after = 10
        async with running(storage, publisher) as relay:
            await until(lambda: relay.trouble is not None and relay.published == 2)
        publisher.away = False
        async with running(storage, publisher) as relay:
            await until(lambda: relay.published == 5)
        assert Counter(revisions(publisher)) == {1: 4, 2: 4, 3: 6, 4: 4, 5: 4}


async def test_pauses_grow_to_a_bound_and_start_anew_when_something_is_acknowledged(tmp_path: Path) -> None:
    clock, publisher = Sleeps(), MemoryPublisher()
    async with open_storage(tmp_path) as storage:
        await write(storage, (config("key"), 1))
        await write(storage, (config("key"), 2))
        publisher.away = True
        async with running(storage, publisher, clock) as relay:
            await until(lambda: len(clock.pauses) > 20)
            assert max(clock.pauses) <= LONGEST_PAUSE_SECONDS
            assert min(clock.pauses[-5:]) >= LONGEST_PAUSE_SECONDS / 2
            assert publisher.calls <= len(clock.pauses) + 1, "each failure is followed by a pause"
            grown = len(clock.pauses)
            publisher.away, publisher.tear_after = False, 1
            await until(lambda: relay.published == 1)
            await until(lambda: len(clock.pauses) > grown + 2)
            assert min(clock.pauses[grown:]) <= relays.SHORTEST_PAUSE_SECONDS


async def test_writes_do_not_shorten_the_pauses(tmp_path: Path) -> None:
    """News of a write are no news of the broker."""
    clock, publisher = FakeClock(), MemoryPublisher()
    publisher.away = True
    async with open_storage(tmp_path) as storage:
        await write(storage, (config("key"), 0))
        async with running(storage, publisher, clock) as relay:
            await until(lambda: relay.trouble is not None)
            for number in range(20):
                await write(storage, (config("key"), number))
            assert publisher.calls == 1, "the clock stands still"


async def test_trouble_is_told_by_every_replica_and_ends(tmp_path: Path) -> None:
    clock, publisher = FakeClock(), MemoryPublisher()
    publisher.away = True

    async def kafka_answers() -> None:
        """The bus can be read, though nothing can be written."""

    async with open_storage(tmp_path) as storage:
        elsewhere = OutboxHealth(kafka_answers, storage, clock)
        await elsewhere.ping()
        assert elsewhere.trouble() == elsewhere.note() == ""
        for number in range(3):
            await write(storage, (config("key"), number))
        async with running(storage, publisher, clock) as relay:
            since = clock.now().isoformat()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (await storage.outbox_status()).failure:  # noqa: ASYNC110 - storage has threads
                    await asyncio.sleep(0.001)
            await clock.advance(10)
            await elsewhere.ping()
            assert elsewhere.trouble() == f"the topic is away; 3 changes waiting, the oldest since {since}"
            publisher.away = False
            await clock.advance(10)
            await until(lambda: relay.published == 3)
        await elsewhere.ping()
        assert elsewhere.trouble() == elsewhere.note() == ""


async def test_what_waits_is_told_though_whoever_has_the_turn_says_nothing(tmp_path: Path) -> None:
    clock, publisher = FakeClock(), MemoryPublisher()
    publisher.gate = asyncio.Event()

    async def kafka_answers() -> None:
        """It does."""

    async with open_storage(tmp_path) as storage:
        health = OutboxHealth(kafka_answers, storage, clock)
        await write(storage, (config("key"), 1))
        async with running(storage, publisher, clock) as relay:
            await until(lambda: publisher.calls == 1)
            await clock.advance(2)
            await health.ping()
            assert health.note().startswith("1 changes waiting, the oldest since 2025-01-01T00:00:00")
            await clock.advance(10)
            await health.ping()
            assert health.trouble().startswith("events leave late; 1 changes waiting")
            publisher.gate.set()
            await until(lambda: relay.published == 1)
        await health.ping()
        assert health.trouble() == health.note() == ""


async def test_an_incomplete_event_is_counted_once_and_told_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, publisher = Sleeps(), MemoryPublisher(limit_bytes=1_000)

    async def kafka_answers() -> None:
        """It does."""

    async with open_storage(tmp_path) as storage:
        health = OutboxHealth(kafka_answers, storage, clock)
        await write(storage, (config("small"), 1))
        # The second is torn off, so that the first is settled and its revision is not.
        await write(storage, (config("large"), "x" * 2_000), (config("other"), 1))
        await write(storage, (config("k" * 500), "x" * 2_000))
        publisher.tear_after = 2
        async with running(storage, publisher, clock) as relay:
            await until(lambda: relay.trouble is not None)
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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.lists(st.sampled_from([1, 300, 3_000]), min_size=1, max_size=5), min_size=1, max_size=30),
    tears=st.lists(st.integers(1, 20), max_size=5),
    batch_changes=st.integers(1, 40),
)
def test_whatever_tears_each_event_is_published_once_and_the_cursor_never_passes_one(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], tears: list[int], batch_changes: int
) -> None:
    async def play() -> None:
        publisher = MemoryPublisher(1_000, batch_changes)
        async with open_storage(tmp_path_factory.mktemp("log")) as storage:
            for number, parts in enumerate(sizes):
                await write(storage, *((config(f"key-{number}-{at}"), "x" * size) for at, size in enumerate(parts)))
            async with running(storage, publisher) as relay:
                for tear in tears:
                    publisher.tear_after, publisher.away = tear, False
                    await until(lambda: publisher.away or relay.published == len(sizes))
                    status = await storage.outbox_status()
                    done = Counter(revisions(publisher))
                    assert all(done[at + 1] == len(sizes[at]) for at in range(status.published))
                publisher.tear_after, publisher.away = None, False
                await until(lambda: relay.published == len(sizes))
            status = await storage.outbox_status()
        assert revisions(publisher) == [at + 1 for at, parts in enumerate(sizes) for _ in parts]
        assert status.reduced == sum(size == 3_000 for parts in sizes for size in parts)

    asyncio.run(play())
