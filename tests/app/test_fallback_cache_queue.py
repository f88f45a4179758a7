"""The entries that wait to be sent to the fallback cache."""

from datetime import timedelta

import pytest

from configsvc.app import fallback_cache
from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.cache.local import LocalCache
from configsvc.domain.records import AtRevision
from tests.app.fake_clock import FakeClock, settle

LARGE = 100_000


async def test_queue_is_bounded_in_bytes_and_a_refresh_evicts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fallback_cache, "QUEUE_BYTES", 10 * LARGE)
    cache, clock = LocalCache(64 << 20, FakeClock()), FakeClock()
    shared = FallbackCache(cache, clock, timedelta(days=1))
    for number in range(100):
        shared.put(FallbackEntry(f"queued-{number}", 1, lambda: 1, LARGE))
    assert len(shared._queue) == 10
    shared.add_source(lambda: [FallbackEntry(f"refreshed-{number}", 1, lambda: 2, LARGE) for number in range(100)])
    keys = [*(f"queued-{number}" for number in range(90, 100)), *(f"refreshed-{number}" for number in range(100))]
    async with shared:
        await shared._put_all()
        await settle()
    assert set(await shared.get(keys)) == set(keys)


async def test_refresh_of_many_entries_evicts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback_cache, "QUEUE_ENTRIES", 10)
    cache, clock = LocalCache(64 << 20, FakeClock()), FakeClock()
    shared = FallbackCache(cache, clock, timedelta(days=1))
    keys = [f"key-{number}" for number in range(100)]
    shared.add_source(lambda: [FallbackEntry(key, 1, lambda: 1) for key in keys])
    async with shared:
        await shared._put_all()
        await settle()
    assert set(await shared.get(keys)) == set(keys)


async def test_older_entry_does_not_replace_a_queued_newer_one() -> None:
    cache, clock = LocalCache(1 << 20, FakeClock()), FakeClock()
    async with FallbackCache(cache, clock, timedelta(days=1)) as shared:
        for revision in (2, 3, 1):
            shared.put(FallbackEntry("key", revision, lambda revision=revision: revision))  # type: ignore[misc]
        await settle()
    assert await shared.get(["key", "other"]) == {"key": AtRevision(3, 3)}


async def test_first_of_two_entries_at_one_revision_is_kept() -> None:
    cache, clock = LocalCache(1 << 20, FakeClock()), FakeClock()
    one, other = (FallbackCache(cache, clock, timedelta(days=1)) for _ in range(2))
    assert await one.put_if_absent([FallbackEntry("key", 1, lambda: "first")]) == {"key": AtRevision("first", 1)}
    assert await other.put_if_absent([FallbackEntry("key", 1, lambda: "second")]) == {"key": AtRevision("first", 1)}


async def test_without_a_cache_nothing_is_kept() -> None:
    async with FallbackCache(None, FakeClock(), timedelta(days=1)) as disabled:
        assert not disabled.is_enabled
        disabled.put(FallbackEntry("key", 1, lambda: "value"))
        assert await disabled.put_if_absent([FallbackEntry("key", 1, lambda: "value")]) == {}
    assert await disabled.get(["key"]) == {}
