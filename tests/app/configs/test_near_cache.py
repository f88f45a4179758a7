"""Records in memory: always what the store held at the revision that the answer names."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.configs.near_cache import NearCache
from configsvc.clock import SystemClock
from configsvc.domain.records import JsonObject, Ref, View
from configsvc.errors import Unavailable
from configsvc.storage.port import RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import Replica, config, open_replica, open_storage, write

pytestmark = pytest.mark.timeout(60)

A, B, C = config("a"), config("b"), config("c")


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(tmp_path) as opened:
        yield opened


@pytest.fixture
async def replica(storage: Storage) -> AsyncIterator[Replica]:
    async with open_replica(storage, FakeClock()) as opened:
        yield opened


@pytest.fixture
def near(replica: Replica) -> NearCache:
    return replica.following(NearCache(reader=replica.door, tail=replica.tail, max_entries=100))


def value_of(view: View, ref: Ref) -> object:
    record = view.get(ref)
    return None if record is None else record.body["value"]


def hold(replica: Replica) -> asyncio.Event:
    """From now on answers of the store are kept back until the event is set."""
    replica.door.held = asyncio.Event()
    replica.door.in_hand.clear()
    return replica.door.held


async def test_a_second_read_comes_from_memory(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    assert value_of(await near.get([A]), A) == 1
    view = await near.get([A])
    assert (view.revision, value_of(view, A), replica.door.gets) == (1, 1, 1)


async def test_an_entry_follows_the_log(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    await near.get([A])
    await replica.put(A, 2)
    await replica.put(B, 3)
    view = await near.get([A])
    assert (view.revision, value_of(view, A), replica.door.gets) == (3, 2, 1)
    record = view.get(A)
    assert record == (await replica.storage.get([A])).get(A)
    await replica.put(A, None)
    view = await near.get([A])
    assert (view.revision, value_of(view, A), replica.door.gets) == (4, None, 1)


async def test_that_there_is_nothing_is_remembered_until_there_is(replica: Replica, near: NearCache) -> None:
    assert value_of(await near.get([A]), A) is None
    await near.get([A])
    assert replica.door.gets == 1
    await replica.put(A, 1)
    assert value_of(await near.get([A]), A) == 1
    assert replica.door.gets == 1


async def test_nothing_asked_is_answered(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    assert (await near.get([])).revision == 1


async def test_one_flight_for_all_who_ask_at_once(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    views = await asyncio.gather(*(near.get([A]) for _ in range(50)))
    assert [value_of(view, A) for view in views] == [1] * 50
    assert replica.door.gets == 1


async def test_asked_twice_in_one_request_is_read_once(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    assert value_of(await near.get([A, A]), A) == 1


async def test_a_late_fill_does_not_bring_an_old_value_back(replica: Replica, near: NearCache) -> None:
    await replica.put(A, "old")
    release = hold(replica)
    asking = asyncio.ensure_future(near.get([A]))
    await replica.door.in_hand.wait()
    await replica.put(A, "new")
    release.set()
    view = await asking
    assert (view.revision, value_of(view, A)) == (2, "new")
    assert value_of(await near.get([A]), A) == "new"
    assert replica.door.gets == 1


async def test_a_late_fill_does_not_bring_a_removed_record_back(replica: Replica, near: NearCache) -> None:
    await replica.put(A, "old")
    release = hold(replica)
    asking = asyncio.ensure_future(near.get([A]))
    await replica.door.in_hand.wait()
    await replica.put(A, None)
    release.set()
    assert value_of(await asking, A) is None
    assert value_of(await near.get([A]), A) is None


async def test_a_late_fill_is_kept_while_other_records_are_written(replica: Replica, near: NearCache) -> None:
    """Else a busy service would never have anything in memory."""
    await replica.put(A, 1)
    release = hold(replica)
    asking = asyncio.ensure_future(near.get([A]))
    await replica.door.in_hand.wait()
    for number in range(5):
        await replica.put(B, number)
    release.set()
    view = await asking
    assert (view.revision, value_of(view, A)) == (6, 1)
    await near.get([A])
    assert replica.door.gets == 1


async def test_a_fill_ahead_of_the_tail_is_not_set_back_by_it(replica: Replica, near: NearCache) -> None:
    """Another replica has written twice; the fill has both, and the tail tells them one after the other."""
    first = await write(replica.storage, (A, 1))
    second = await write(replica.storage, (A, 2))
    view = await near.get([A])
    assert (view.revision, value_of(view, A)) == (2, 2)
    for commit in (first, second):
        replica.tail.on_commit(commit)
        view = await near.get([A])
        assert (view.revision, value_of(view, A)) == (2, 2)


async def test_entries_that_did_not_stand_together_are_read_together(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    await near.get([A])
    await write(replica.storage, (A, 2), (B, 2))
    await near.get([B])
    view = await near.get([A, B])
    assert (view.revision, value_of(view, A), value_of(view, B)) == (2, 2, 2)


async def test_with_the_store_away_memory_still_answers(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    await near.get([A, B])
    replica.door.shut = True
    view = await near.get([A, B])
    assert (value_of(view, A), value_of(view, B)) == (1, None)
    with pytest.raises(Unavailable):
        await near.get([A, C])


async def test_with_the_store_away_what_was_not_read_together_still_answers(replica: Replica, near: NearCache) -> None:
    await replica.put(A, 1)
    await near.get([A])
    await write(replica.storage, (B, 2))
    await near.get([B])
    replica.door.shut = True
    view = await near.get([A, B])
    assert (value_of(view, A), value_of(view, B)) == (1, 2)


async def test_a_failed_fill_fails_all_who_wait_and_the_next_tries_again(replica: Replica, near: NearCache) -> None:
    replica.door.shut = True
    failed = await asyncio.gather(*(near.get([A]) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in failed)
    assert replica.door.gets == 1
    replica.door.shut = False
    await replica.put(A, 1)
    assert value_of(await near.get([A]), A) == 1


async def test_a_caller_who_gives_up_does_not_take_the_flight_from_the_others(
    replica: Replica, near: NearCache
) -> None:
    await replica.put(A, 1)
    release = hold(replica)
    first, second = (asyncio.ensure_future(near.get([A])) for _ in range(2))
    await replica.door.in_hand.wait()
    first.cancel()
    await settle()
    release.set()
    assert value_of(await second, A) == 1
    assert first.cancelled()
    assert replica.door.gets == 1


async def test_least_recently_used_entries_go_first(replica: Replica) -> None:
    near = replica.following(NearCache(reader=replica.door, tail=replica.tail, max_entries=2))
    await near.get([A])
    await near.get([B])
    await near.get([A])
    await near.get([C])
    assert len(near) == 2
    gets = replica.door.gets
    await near.get([A])
    await near.get([C])
    assert replica.door.gets == gets
    await near.get([B])
    assert replica.door.gets == gets + 1


async def test_more_refs_than_fit_are_answered(replica: Replica) -> None:
    near = replica.following(NearCache(reader=replica.door, tail=replica.tail, max_entries=2))
    refs = [config(f"key-{n}") for n in range(10)]
    await write(replica.storage, *((ref, 1) for ref in refs))
    assert set((await near.get(refs)).records) == set(refs)
    assert set((await near.get(refs[::-1])).records) == set(refs)
    assert len(near) == 2


async def test_after_a_gap_in_the_log_nothing_old_is_answered(replica: Replica, near: NearCache) -> None:
    await replica.put(A, "old")
    await near.get([A])
    release = hold(replica)
    asking = asyncio.ensure_future(near.get([B]))
    await replica.door.in_hand.wait()
    for number in range(20):
        await write(replica.storage, (A, number), (B, number))
    await replica.storage.compact(RetentionPolicy(2))
    replica.door.held = None
    await replica.tail.wait_for(21, None)
    release.set()
    await asking
    for ref in (A, B):
        view = await near.get([ref])
        assert (view.revision, value_of(view, ref)) == (21, 19)


async def test_closed_it_answers_nothing_from_memory(replica: Replica, near: NearCache) -> None:
    await near.get([A])
    near.close()
    await replica.put(A, 1)
    assert value_of(await near.get([A]), A) == 1
    assert len(near) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), max_entries=st.integers(1, 6))
async def test_whatever_interleaves_each_answer_is_the_state_at_its_revision(seed: int, max_entries: int) -> None:
    """Own writes, those of another replica, fills that arrive late or ahead of the tail, evictions: at random."""
    random = Random(seed)
    refs = [config(key) for key in "abcd"]
    # What each ref was worth from each revision on.
    history: dict[int, dict[Ref, JsonObject]] = {0: {}}

    with TemporaryDirectory() as folder:
        async with (
            open_storage(Path(folder)) as storage,
            open_replica(storage, SystemClock()) as replica,
        ):
            near = replica.following(NearCache(reader=replica.door, tail=replica.tail, max_entries=max_entries))
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
                    held = replica.door.held = asyncio.Event()
                    await pause()
                    await pause()
                    replica.door.held = None
                    held.set()
                    await pause()

            async def read_some() -> None:
                for _ in range(15):
                    asked = random.sample(refs, random.randint(1, 3))
                    applied = replica.tail.applied
                    view = await near.get(asked)
                    assert view.revision >= applied
                    expected = {ref: body for ref, body in history[view.revision].items() if ref in asked}
                    assert {ref: record.body for ref, record in view.records.items()} == expected
                    assert len(near) <= max_entries
                    await pause()

            await asyncio.gather(write_some(), write_some(), hold_some(), *(read_some() for _ in range(4)))
            await replica.tail.wait_for(max(history), None)
            view = await near.get(refs)
            assert view.revision == max(history)
            assert {ref: record.body for ref, record in view.records.items()} == history[view.revision]
