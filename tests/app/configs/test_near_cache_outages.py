"""The near cache while the store is down."""

from datetime import timedelta

import pytest

from configsvc.app.configs.near_cache import NearCache
from configsvc.app.fallback_cache import FallbackCache
from configsvc.cache.local import LocalCache
from configsvc.errors import Unavailable
from tests.app.configs.near_reads import A, B, C, value_of
from tests.app.fake_clock import FakeClock
from tests.app.replica import Replica, config, write

pytestmark = pytest.mark.timeout(60)


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


async def test_read_that_notices_the_outage_is_answered_from_the_fallback_cache(
    replica: Replica, clock: FakeClock
) -> None:
    await replica.put(A, 1)
    cache = LocalCache(1 << 20, clock)
    async with FallbackCache(cache, clock, timedelta(hours=1)) as sending:
        other = NearCache(reader=replica.storage, tail=replica.tail, max_entries=100, fallback_cache=sending)
        await other.get([A])
    fallback_cache = FallbackCache(cache, clock, timedelta(hours=1))
    near_cache = NearCache(reader=replica.reader, tail=replica.tail, max_entries=100, fallback_cache=fallback_cache)
    replica.reader.is_down = True
    assert replica.tail.stale_since is None
    assert value_of(await near_cache.get([A]), A) == 1
    assert replica.tail.stale_since is not None
