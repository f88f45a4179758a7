"""The relay over SQLite and a topic in memory."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.app.changelog.outbox.relay import LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS
from tests.app.changelog.memory_publisher import MemoryPublisher
from tests.app.changelog.relays import SkippingClock, revisions, running, until
from tests.app.fake_clock import FakeClock
from tests.app.replica import config, open_storage, write


async def test_acknowledged_events_are_not_published_again_if_the_rest_fails(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as storage:
        for number in range(40):
            await write(storage, (config(f"key-{number}"), number))
        publisher = MemoryPublisher()
        publisher.tear_after = 25
        async with running(storage, publisher) as relay:
            await until(lambda: relay.failure is not None)
            await until(lambda: relay.published == 25)
            assert (await storage.outbox_status()).waiting == 15
            publisher.away = False
            await until(lambda: relay.published == 40)
        assert revisions(publisher) == list(range(1, 41)), "each once"


async def test_cursor_passes_a_revision_only_when_all_its_changes_are_published(
    tmp_path: Path,
) -> None:
    async with open_storage(tmp_path) as storage:
        await write(storage, (config("first"), 1))
        await write(storage, *((config(f"key-{number}"), number) for number in range(10)))
        publisher = MemoryPublisher()
        publisher.tear_after = 5
        async with running(storage, publisher) as relay:
            await until(lambda: relay.failure is not None)
            assert relay.published == (await storage.outbox_status()).published == 1
            publisher.away = False
            await until(lambda: relay.published == 2)
        assert Counter(revisions(publisher)) == {1: 1, 2: 10}, "what was acknowledged of it is not repeated"


async def test_restarted_relay_repeats_at_most_one_revision(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as storage:
        for number in range(5):
            await write(storage, *((config(f"key-{number}-{part}"), number) for part in range(4)))
        publisher = MemoryPublisher()
        publisher.tear_after = 10
        async with running(storage, publisher) as relay:
            await until(lambda: relay.failure is not None and relay.published == 2)
        publisher.away = False
        async with running(storage, publisher) as relay:
            await until(lambda: relay.published == 5)
        assert Counter(revisions(publisher)) == {1: 4, 2: 4, 3: 6, 4: 4, 5: 4}


async def test_pauses_grow_to_a_bound_and_are_short_again_after_an_acknowledgement(tmp_path: Path) -> None:
    clock, publisher = SkippingClock(), MemoryPublisher()
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
            assert min(clock.pauses[grown:]) <= SHORTEST_PAUSE_SECONDS


async def test_writes_do_not_shorten_the_pauses(tmp_path: Path) -> None:
    """A write says nothing about the broker."""
    clock, publisher = FakeClock(), MemoryPublisher()
    publisher.away = True
    async with open_storage(tmp_path) as storage:
        await write(storage, (config("key"), 0))
        async with running(storage, publisher, clock) as relay:
            await until(lambda: relay.failure is not None)
            for number in range(20):
                await write(storage, (config("key"), number))
            assert publisher.calls == 1, "the clock stands still"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.lists(st.sampled_from([1, 300, 3_000]), min_size=1, max_size=5), min_size=1, max_size=30),
    tears=st.lists(st.integers(1, 20), max_size=5),
    batch_changes=st.integers(1, 40),
)
def test_each_event_is_published_once_and_never_passed_by_the_cursor_whatever_fails(
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
