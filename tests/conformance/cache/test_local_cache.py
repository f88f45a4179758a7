"""`LocalCache` alone: its bound in bytes, and the jitter of its expiry."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from configsvc.cache.local import ENTRY_OVERHEAD_BYTES, LocalCache
from configsvc.cache.port import CacheEntry
from tests.app.fake_clock import FakeClock

HOUR = timedelta(hours=1)


async def test_least_recently_used_entries_are_evicted_first() -> None:
    cache = LocalCache(3 * (ENTRY_OVERHEAD_BYTES + 101), FakeClock())
    for key in "abc":
        await cache.put({key: CacheEntry(1, b"x" * 100)}, HOUR)
    await cache.get(["a"])
    await cache.put({"d": CacheEntry(1, b"x" * 100)}, HOUR)
    assert set(await cache.get(list("abcd"))) == {"a", "c", "d"}


async def test_entry_larger_than_the_cache_removes_the_old_one() -> None:
    cache = LocalCache(1_000, FakeClock())
    await cache.put({"a": CacheEntry(1, b"x")}, HOUR)
    await cache.put({"a": CacheEntry(2, b"x" * 1_000)}, HOUR)
    assert await cache.get(["a"]) == {}
    assert cache.size_bytes == 0


async def test_entries_stored_together_do_not_expire_together() -> None:
    clock = FakeClock()
    cache = LocalCache(1 << 20, clock)
    keys = [f"key-{n}" for n in range(500)]
    await cache.put(dict.fromkeys(keys, CacheEntry(1, b"x")), timedelta(seconds=100))
    await clock.advance(89)
    assert len(await cache.get(keys)) == 500
    await clock.advance(6)
    assert 0 < len(await cache.get(keys)) < 500
    await clock.advance(5)
    assert await cache.get(keys) == {}
    assert cache.size_bytes == 0


@given(puts=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 5), st.integers(0, 600)), max_size=40))
async def test_size_never_exceeds_the_bound(puts: list[tuple[str, int, int]]) -> None:
    cache = LocalCache(2_000, FakeClock())
    newest: dict[str, int] = {}
    for key, revision, size in puts:
        await cache.put({key: CacheEntry(revision, b"x" * size)}, HOUR)
        newest[key] = max(newest.get(key, 0), revision)
        assert 0 <= cache.size_bytes <= 2_000
        found = await cache.get(list("abcdef"))
        assert all(entry.revision <= newest[name] for name, entry in found.items())
        assert cache.size_bytes == sum(len(e.payload) + 1 + ENTRY_OVERHEAD_BYTES for e in found.values())
