"""What `cache/port.py` promises."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import permutations
from typing import Protocol

import pytest

from configsvc.cache.port import Cache, CacheEntry

HOUR = timedelta(hours=1)
BRIEF = timedelta(seconds=2)


class Bench(Protocol):
    """See conftest."""

    @property
    def cache(self) -> Cache: ...
    @property
    def elapse(self) -> Callable[[timedelta], Awaitable[None]]: ...


async def test_entry_is_returned_unchanged(cache: Cache) -> None:
    entry = CacheEntry(7, b"\x00\xff payload \r\n" * 100)
    await cache.put({"a": entry}, HOUR)
    assert await cache.get(["a"]) == {"a": entry}


async def test_missing_keys_are_left_out(cache: Cache) -> None:
    await cache.put({"a": CacheEntry(1, b"1")}, HOUR)
    assert await cache.get(["a", "b"]) == {"a": CacheEntry(1, b"1")}
    assert await cache.get(["b"]) == {}


async def test_no_keys_return_no_entries(cache: Cache) -> None:
    await cache.put({}, HOUR)
    assert await cache.get([]) == {}


async def test_duplicate_keys_are_found_once(cache: Cache) -> None:
    await cache.put({"a": CacheEntry(1, b"1")}, HOUR)
    assert await cache.get(["a", "a"]) == {"a": CacheEntry(1, b"1")}


async def test_concurrent_callers_all_find_the_entry(cache: Cache) -> None:
    await cache.put({"a": CacheEntry(1, b"1")}, HOUR)
    found = await asyncio.gather(*(cache.get(["a"]) for _ in range(200)))
    assert found == [{"a": CacheEntry(1, b"1")}] * 200


@pytest.mark.parametrize("key", ["a b", "ключ", "a/b.c:d", "{x}", "x" * 600, "*"])
async def test_key_may_be_any_text(cache: Cache, key: str) -> None:
    await cache.put({key: CacheEntry(1, b"1"), "other": CacheEntry(2, b"2")}, HOUR)
    assert await cache.get([key]) == {key: CacheEntry(1, b"1")}


@pytest.mark.parametrize("payload", [b"", b"\x00", bytes(range(256)), b"x" * (1 << 20)], ids=["0", "1", "256", "1MiB"])
async def test_payload_may_be_any_bytes(cache: Cache, payload: bytes) -> None:
    await cache.put({"a": CacheEntry(1, payload)}, HOUR)
    assert await cache.get(["a"]) == {"a": CacheEntry(1, payload)}


async def test_higher_revision_replaces_the_entry(cache: Cache) -> None:
    await cache.put({"a": CacheEntry(9, b"old")}, HOUR)
    await cache.put({"a": CacheEntry(10, b"new")}, HOUR)
    assert await cache.get(["a"]) == {"a": CacheEntry(10, b"new")}


async def test_lower_revision_does_not_replace_the_entry(cache: Cache) -> None:
    await cache.put({"a": CacheEntry(10, b"new")}, HOUR)
    await cache.put({"a": CacheEntry(9, b"old")}, HOUR)
    assert await cache.get(["a"]) == {"a": CacheEntry(10, b"new")}


async def test_same_revision_does_not_replace_the_entry(cache: Cache) -> None:
    await cache.put({"a": CacheEntry(10, b"first")}, HOUR)
    await cache.put({"a": CacheEntry(10, b"second")}, HOUR)
    assert await cache.get(["a"]) == {"a": CacheEntry(10, b"first")}


async def test_each_entry_of_a_put_is_compared_by_its_own_revision(cache: Cache) -> None:
    await cache.put({"a": CacheEntry(5, b"a5"), "b": CacheEntry(5, b"b5")}, HOUR)
    await cache.put({"a": CacheEntry(6, b"a6"), "b": CacheEntry(4, b"b4"), "c": CacheEntry(1, b"c1")}, HOUR)
    assert await cache.get(["a", "b", "c"]) == {
        "a": CacheEntry(6, b"a6"),
        "b": CacheEntry(5, b"b5"),
        "c": CacheEntry(1, b"c1"),
    }


async def test_revisions_compare_as_numbers_up_to_64_bits(cache: Cache) -> None:
    """Not as text ("9" > "10"), nor as floats (which end at 2^53)."""
    high = 2**63 - 2
    await cache.put({"a": CacheEntry(high, b"old")}, HOUR)
    await cache.put({"a": CacheEntry(99, b"older")}, HOUR)
    assert await cache.get(["a"]) == {"a": CacheEntry(high, b"old")}
    await cache.put({"a": CacheEntry(high + 1, b"new")}, HOUR)
    assert await cache.get(["a"]) == {"a": CacheEntry(high + 1, b"new")}


async def test_puts_in_any_order_leave_the_newest(cache: Cache) -> None:
    for number, order in enumerate(permutations(range(1, 5))):
        key = f"key-{number}"
        for revision in order:
            await cache.put({key: CacheEntry(revision, str(revision).encode())}, HOUR)
        assert await cache.get([key]) == {key: CacheEntry(4, b"4")}


async def test_concurrent_puts_leave_the_newest(cache: Cache) -> None:
    async with asyncio.TaskGroup() as group:
        for revision in (7, 3, 20, 11, 19, 1, 20, 2):
            group.create_task(cache.put({"a": CacheEntry(revision, str(revision).encode())}, HOUR))
    assert await cache.get(["a"]) == {"a": CacheEntry(20, b"20")}


async def test_entry_expires_after_its_ttl(bench: Bench) -> None:
    await bench.cache.put({"brief": CacheEntry(1, b"1")}, BRIEF)
    await bench.cache.put({"long": CacheEntry(1, b"1")}, HOUR)
    await bench.elapse(BRIEF * 2)
    assert await bench.cache.get(["brief", "long"]) == {"long": CacheEntry(1, b"1")}


async def test_entry_is_found_for_most_of_its_ttl(bench: Bench) -> None:
    await bench.cache.put({f"key-{n}": CacheEntry(1, b"1") for n in range(20)}, HOUR)
    await bench.elapse(BRIEF / 4)
    assert len(await bench.cache.get([f"key-{n}" for n in range(20)])) == 20


async def test_newer_entry_has_its_own_ttl(bench: Bench) -> None:
    await bench.cache.put({"a": CacheEntry(1, b"1")}, BRIEF)
    await bench.cache.put({"a": CacheEntry(2, b"2")}, HOUR)
    await bench.elapse(BRIEF * 2)
    assert await bench.cache.get(["a"]) == {"a": CacheEntry(2, b"2")}


async def test_refused_put_does_not_renew_the_ttl(bench: Bench) -> None:
    await bench.cache.put({"a": CacheEntry(2, b"2")}, BRIEF)
    await bench.cache.put({"a": CacheEntry(1, b"1")}, HOUR)
    await bench.elapse(BRIEF * 2)
    assert await bench.cache.get(["a"]) == {}


async def test_put_at_the_same_revision_renews_the_ttl(bench: Bench) -> None:
    await bench.cache.put({"a": CacheEntry(2, b"2")}, BRIEF)
    await bench.cache.put({"a": CacheEntry(2, b"another")}, HOUR)
    await bench.elapse(BRIEF * 2)
    assert await bench.cache.get(["a"]) == {"a": CacheEntry(2, b"2")}


async def test_ping_returns_if_the_backend_answers(cache: Cache) -> None:
    await cache.ping()


async def test_name_is_one_lower_case_word(cache: Cache) -> None:
    assert cache.name
    assert cache.name == cache.name.strip().lower()
