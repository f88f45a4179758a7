"""The near cache under random interleavings of writes, fills and evictions."""

import asyncio
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.configs.near_cache import NearCache
from configsvc.clock import SystemClock
from configsvc.domain.records import JsonObject, Ref
from tests.app.replica import config, open_replica, open_storage, write

pytestmark = pytest.mark.timeout(60)


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
