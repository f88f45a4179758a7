"""The near cache: each answer is what the store held at the revision that the answer names."""

import asyncio
from datetime import timedelta
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.configs.near_cache import UNBOUNDED_RECORDS, NearCache
from configsvc.app.fallback_cache import FallbackCache
from configsvc.cache.local import LocalCache
from configsvc.clock import SystemClock
from configsvc.domain.records import JsonObject, Ref, View
from configsvc.errors import Unavailable
from configsvc.storage.port import RetentionPolicy
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import Replica, config, open_replica, open_storage, write

pytestmark = pytest.mark.timeout(60)

LARGE = 100_000
A, B, C = config("a"), config("b"), config("c")


@pytest.fixture
def near_cache(replica: Replica) -> NearCache:
    return replica.following(NearCache(reader=replica.reader, tail=replica.tail, max_entries=100))


def value_of(view: View, ref: Ref) -> object:
    record = view.get(ref)
    return None if record is None else record.body["value"]


def hold(replica: Replica) -> asyncio.Event:
    """Holds back the answers of the store until the event is set."""
    replica.reader.release = asyncio.Event()
    replica.reader.is_holding.clear()
    return replica.reader.release


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


async def test_concurrent_reads_of_a_record_share_one_fill(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    views = await asyncio.gather(*(near_cache.get([A]) for _ in range(50)))
    assert [value_of(view, A) for view in views] == [1] * 50
    assert replica.reader.gets == 1


async def test_ref_that_is_named_twice_is_read_once(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A, A]), A) == 1


async def test_late_fill_does_not_restore_an_old_value(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, "old")
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([A]))
    await replica.reader.is_holding.wait()
    await replica.put(A, "new")
    release.set()
    view = await asking
    assert (view.revision, value_of(view, A)) == (2, "new")
    assert value_of(await near_cache.get([A]), A) == "new"
    assert replica.reader.gets == 1


async def test_late_fill_does_not_restore_a_removed_record(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, "old")
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([A]))
    await replica.reader.is_holding.wait()
    await replica.put(A, None)
    release.set()
    assert value_of(await asking, A) is None
    assert value_of(await near_cache.get([A]), A) is None


async def test_late_fill_is_kept_if_only_other_records_were_written(replica: Replica, near_cache: NearCache) -> None:
    """Otherwise a busy service would never have anything in memory."""
    await replica.put(A, 1)
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([A]))
    await replica.reader.is_holding.wait()
    for number in range(5):
        await replica.put(B, number)
    release.set()
    view = await asking
    assert (view.revision, value_of(view, A)) == (6, 1)
    await near_cache.get([A])
    assert replica.reader.gets == 1


async def test_fill_ahead_of_the_tail_is_not_replaced_by_older_changes(replica: Replica, near_cache: NearCache) -> None:
    """Another replica has written twice. The fill has both writes; then the tail reports them one after the other."""
    first = await write(replica.storage, (A, 1))
    second = await write(replica.storage, (A, 2))
    view = await near_cache.get([A])
    assert (view.revision, value_of(view, A)) == (2, 2)
    for commit in (first, second):
        replica.tail.on_commit(commit)
        view = await near_cache.get([A])
        assert (view.revision, value_of(view, A)) == (2, 2)


async def test_entries_of_different_revisions_are_read_again_together(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    await near_cache.get([A])
    await write(replica.storage, (A, 2), (B, 2))
    await near_cache.get([B])
    view = await near_cache.get([A, B])
    assert (view.revision, value_of(view, A), value_of(view, B)) == (2, 2, 2)


async def test_memory_answers_while_the_store_is_down(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    await near_cache.get([A, B])
    replica.reader.is_down = True
    view = await near_cache.get([A, B])
    assert (value_of(view, A), value_of(view, B)) == (1, None)
    with pytest.raises(Unavailable):
        await near_cache.get([A, C])


async def test_entries_of_different_revisions_answer_while_the_store_is_down(
    replica: Replica, near_cache: NearCache
) -> None:
    await replica.put(A, 1)
    await near_cache.get([A])
    await write(replica.storage, (B, 2))
    await near_cache.get([B])
    replica.reader.is_down = True
    view = await near_cache.get([A, B])
    assert (value_of(view, A), value_of(view, B)) == (1, 2)


async def test_stale_replica_answers_from_memory_and_fallback_cache_without_asking_the_store(
    replica: Replica, clock: FakeClock
) -> None:
    await replica.put(A, 1)
    await replica.put(B, 2)
    cache = LocalCache(1 << 20, clock)
    async with FallbackCache(cache, clock, timedelta(hours=1)) as sending:
        other = NearCache(reader=replica.storage, tail=replica.tail, max_entries=100, fallback_cache=sending)
        await other.get([B, C])
    fallback_cache = FallbackCache(cache, clock, timedelta(hours=1))
    near_cache = NearCache(reader=replica.reader, tail=replica.tail, max_entries=100, fallback_cache=fallback_cache)
    await near_cache.get([A])
    gets, replica.reader.is_down = replica.reader.gets, True
    replica.tail.mark_stale(Unavailable("the store is down"))
    view = await near_cache.get([A, B, C])
    assert (value_of(view, A), value_of(view, B), value_of(view, C)) == (1, 2, None)
    assert replica.reader.gets == gets
    with pytest.raises(Unavailable):
        await near_cache.get([A, config("in neither")])


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


async def test_failed_fill_fails_all_waiters_and_the_next_read_retries(replica: Replica, near_cache: NearCache) -> None:
    replica.reader.is_down = True
    failed = await asyncio.gather(*(near_cache.get([A]) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in failed)
    assert replica.reader.gets == 1
    replica.reader.is_down = False
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A]), A) == 1


async def test_cancelled_caller_does_not_cancel_the_fill_of_the_others(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    release = hold(replica)
    first, second = (asyncio.ensure_future(near_cache.get([A])) for _ in range(2))
    await replica.reader.is_holding.wait()
    first.cancel()
    await settle()
    release.set()
    assert value_of(await second, A) == 1
    assert first.cancelled()
    assert replica.reader.gets == 1


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


async def test_no_old_value_is_answered_after_a_gap_in_the_log(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, "old")
    await near_cache.get([A])
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([B]))
    await replica.reader.is_holding.wait()
    for number in range(20):
        await write(replica.storage, (A, number), (B, number))
    await replica.storage.compact(RetentionPolicy(2))
    replica.reader.release = None
    await replica.tail.wait_for(21, None)
    release.set()
    await asking
    for ref in (A, B):
        view = await near_cache.get([ref])
        assert (view.revision, value_of(view, ref)) == (21, 19)


async def test_closed_cache_answers_nothing_from_memory(replica: Replica, near_cache: NearCache) -> None:
    await near_cache.get([A])
    near_cache.close()
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A]), A) == 1
    assert len(near_cache) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), max_entries=st.integers(1, 6))
async def test_each_answer_is_the_state_at_its_revision_in_any_interleaving(seed: int, max_entries: int) -> None:
    """Writes of this and of another replica, fills that arrive late or ahead of the tail, and evictions, at random."""
    random = Random(seed)
    refs = [config(key) for key in "abcd"]
    # The bodies of all live records at each revision.
    history: dict[int, dict[Ref, JsonObject]] = {0: {}}

    with TemporaryDirectory() as folder:
        async with (
            open_storage(Path(folder)) as storage,
            open_replica(storage, SystemClock()) as replica,
        ):
            near_cache = replica.following(NearCache(reader=replica.reader, tail=replica.tail, max_entries=max_entries))
            writing = asyncio.Lock()

            async def pause() -> None:
                for _ in range(random.randrange(6)):
                    await asyncio.sleep(0)

            async def write_some() -> None:
                for number in range(12):
                    async with writing:
                        state = dict(history[max(history)])
                        chosen = random.sample(refs, random.randint(1, 2))
                        values = [(ref, None if ref in state and random.random() < 0.3 else number) for ref in chosen]
                        for ref, value in values:
                            state.pop(ref, None)
                            if value is not None:
                                state[ref] = {"value": value}
                        history[max(history) + 1] = state
                        commit = await write(storage, *values)
                    await pause()
                    if random.random() < 0.6:
                        replica.tail.on_commit(commit)

            async def hold_some() -> None:
                for _ in range(8):
                    held = replica.reader.release = asyncio.Event()
                    await pause()
                    await pause()
                    replica.reader.release = None
                    held.set()
                    await pause()

            async def read_some() -> None:
                for _ in range(15):
                    asked = random.sample(refs, random.randint(1, 3))
                    applied = replica.tail.applied
                    view = await near_cache.get(asked)
                    assert view.revision >= applied
                    expected = {ref: body for ref, body in history[view.revision].items() if ref in asked}
                    assert {ref: record.body for ref, record in view.records.items()} == expected
                    assert len(near_cache) <= max_entries
                    await pause()

            await asyncio.gather(write_some(), write_some(), hold_some(), *(read_some() for _ in range(4)))
            await replica.tail.wait_for(max(history), None)
            view = await near_cache.get(refs)
            assert view.revision == max(history)
            assert {ref: record.body for ref, record in view.records.items()} == history[view.revision]
