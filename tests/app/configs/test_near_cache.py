"""The near cache: what it keeps in memory, and what it evicts."""

import pytest

from configsvc.app.configs.near_cache import UNBOUNDED_RECORDS, NearCache
from tests.app.configs.near_reads import A, B, C, value_of
from tests.app.replica import Replica, config, write

pytestmark = pytest.mark.timeout(60)

LARGE = 100_000


async def test_second_read_comes_from_memory(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A]), A) == 1
    view = await near_cache.get([A])
    assert (view.revision, value_of(view, A), replica.reader.gets) == (1, 1, 1)


async def test_entry_follows_the_log(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    await near_cache.get([A])
    await replica.put(A, 2)
    await replica.put(B, 3)
    view = await near_cache.get([A])
    assert (view.revision, value_of(view, A), replica.reader.gets) == (3, 2, 1)
    record = view.get(A)
    assert record == (await replica.storage.get([A])).get(A)
    await replica.put(A, None)
    view = await near_cache.get([A])
    assert (view.revision, value_of(view, A), replica.reader.gets) == (4, None, 1)


async def test_absence_is_cached_until_created(replica: Replica, near_cache: NearCache) -> None:
    assert value_of(await near_cache.get([A]), A) is None
    await near_cache.get([A])
    assert replica.reader.gets == 1
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A]), A) == 1
    assert replica.reader.gets == 1


async def test_read_of_no_refs_is_empty_at_the_applied_revision(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    assert (await near_cache.get([])).revision == 1


async def test_ref_that_is_named_twice_is_read_once(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A, A]), A) == 1


async def test_entries_of_different_revisions_are_read_again_together(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    await near_cache.get([A])
    await write(replica.storage, (A, 2), (B, 2))
    await near_cache.get([B])
    view = await near_cache.get([A, B])
    assert (view.revision, value_of(view, A), value_of(view, B)) == (2, 2, 2)


async def test_large_read_stops_at_its_bytes_and_names_what_it_did_not_read(
    replica: Replica, near_cache: NearCache
) -> None:
    refs = [config(f"key-{number:02}") for number in range(UNBOUNDED_RECORDS + 4)]
    await write(replica.storage, *((ref, "x" * 1_000) for ref in refs))
    view, not_read = await near_cache.get_within(refs, 5_000)
    read = [ref for ref in refs if ref not in not_read]
    assert 1 <= len(read) < len(refs)
    assert read == refs[: len(read)]
    assert set(view.records) == set(read)
    assert len(near_cache) == 0, "a large read does not evict what is read by name"


async def test_least_recently_used_entries_are_evicted_first(replica: Replica) -> None:
    near_cache = replica.following(NearCache(reader=replica.reader, tail=replica.tail, max_entries=2))
    await near_cache.get([A])
    await near_cache.get([B])
    await near_cache.get([A])
    await near_cache.get([C])
    assert len(near_cache) == 2
    gets = replica.reader.gets
    await near_cache.get([A])
    await near_cache.get([C])
    assert replica.reader.gets == gets
    await near_cache.get([B])
    assert replica.reader.gets == gets + 1


async def test_least_recently_used_values_are_evicted_beyond_the_bytes(replica: Replica) -> None:
    near_cache = replica.following(
        NearCache(reader=replica.reader, tail=replica.tail, max_entries=1_000, max_bytes=5 * LARGE)
    )
    refs = [config(f"key-{number}") for number in range(20)]
    await write(replica.storage, *((ref, "x" * LARGE) for ref in refs))
    for ref in refs:
        assert (await near_cache.get([ref])).records[ref].body["value"] == "x" * LARGE
    assert (len(near_cache), near_cache.held_bytes <= 5 * LARGE) == (4, True)
    gets = replica.reader.gets
    await near_cache.get(refs[-4:])
    assert replica.reader.gets == gets


async def test_others_are_evicted_if_a_change_makes_a_value_larger(replica: Replica) -> None:
    near_cache = replica.following(
        NearCache(reader=replica.reader, tail=replica.tail, max_entries=1_000, max_bytes=5 * LARGE)
    )
    refs = [config(f"key-{number}") for number in range(20)]
    for ref in refs:
        await replica.put(ref, "small")
    await near_cache.get(refs)
    for ref in refs:
        await replica.put(ref, "x" * LARGE)
    assert near_cache.held_bytes <= 5 * LARGE
    near_cache.close()
    assert near_cache.held_bytes == 0


async def test_read_of_more_refs_than_fit_is_complete(replica: Replica) -> None:
    near_cache = replica.following(NearCache(reader=replica.reader, tail=replica.tail, max_entries=2))
    refs = [config(f"key-{n}") for n in range(10)]
    await write(replica.storage, *((ref, 1) for ref in refs))
    assert set((await near_cache.get(refs)).records) == set(refs)
    assert set((await near_cache.get(refs[::-1])).records) == set(refs)
    assert len(near_cache) == 2


async def test_closed_cache_answers_nothing_from_memory(replica: Replica, near_cache: NearCache) -> None:
    await near_cache.get([A])
    near_cache.close()
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A]), A) == 1
    assert len(near_cache) == 0


async def test_large_read_of_few_bytes_is_kept_in_memory(replica: Replica) -> None:
    near_cache = replica.following(NearCache(reader=replica.reader, tail=replica.tail, max_entries=1_000))
    refs = [config(f"key-{number:02}") for number in range(UNBOUNDED_RECORDS + 4)]
    await write(replica.storage, *((ref, 1) for ref in refs))
    view, not_read = await near_cache.get_within(refs, 1 << 20)
    assert (set(view.records), not_read, len(near_cache)) == (set(refs), frozenset(), len(refs))
    pages, gets = replica.reader.pages, replica.reader.gets
    assert set((await near_cache.get_within(refs, 1 << 20))[0].records) == set(refs)
    assert (replica.reader.pages, replica.reader.gets) == (pages, gets)


async def test_large_read_that_is_no_small_part_of_the_memory_is_not_kept(replica: Replica) -> None:
    refs = [config(f"key-{number:02}") for number in range(UNBOUNDED_RECORDS + 4)]
    await write(replica.storage, *((ref, "x" * 1_000) for ref in refs))
    for max_entries, max_bytes in ((16 * len(refs) - 1, 1 << 24), (10_000, 16 * 20_000)):
        near_cache = replica.following(
            NearCache(reader=replica.reader, tail=replica.tail, max_entries=max_entries, max_bytes=max_bytes)
        )
        view, not_read = await near_cache.get_within(refs, 1 << 20)
        assert (set(view.records), not_read, len(near_cache)) == (set(refs), frozenset(), 0)
