"""The fallback cache on a real server that is emptied, restarted, hung and slow."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from weakref import WeakSet

import pytest

from configsvc.app.fallback_cache import BATCH_ENTRIES, MARKER_SECONDS, QUEUE_ENTRIES, FallbackCache, FallbackEntry
from configsvc.cache.redis import FAILURES, RedisCache
from tests.app.fake_clock import FakeClock
from tests.engines.valkey import Valkey

# Reached only where a test fails.
PATIENCE_SECONDS = 30.0
DAY = timedelta(days=1)


@dataclass
class World:
    """A fallback cache on a server. `held`: what the replica holds; `listed`: how often the cache asked for all of it."""

    server: Valkey
    clock: FakeClock
    cache: RedisCache
    fallback_cache: FallbackCache
    held: dict[str, int] = field(default_factory=dict)
    listed: int = 0

    def hold(self, key: str, revision: int) -> None:
        """Holds an entry, and puts it once, as the caches of a replica do."""
        self.held[key] = revision
        self.fallback_cache.put(entry(key, revision))

    def all(self) -> Sequence[FallbackEntry]:
        self.listed += 1
        return [entry(key, revision) for key, revision in self.held.items()]

    async def found(self) -> dict[str, int]:
        return {key: entry.revision for key, entry in (await self.fallback_cache.get([*self.held])).items()}

    async def until_found(self) -> None:
        """Advances the clock until the cache has all that is held."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.found() != self.held:
                await self.clock.advance(MARKER_SECONDS)
                await asyncio.sleep(0.01)


def entry(key: str, revision: int) -> FallbackEntry:
    return FallbackEntry(key, revision, lambda: revision)


@pytest.fixture
async def world(private_valkey: Callable[[], Valkey]) -> AsyncIterator[World]:
    server, clock = private_valkey(), FakeClock()
    host, _, port = server.address.rpartition(":")
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(
            RedisCache(host=host, port=int(port), password=server.password, clock=clock)
        )
        fallback_cache = await stack.enter_async_context(FallbackCache(cache, clock, DAY))
        world = World(server, clock, cache, fallback_cache)
        fallback_cache.add_source(world.all)
        for number in range(300):
            world.hold(f"key-{number}", 1)
        await world.until_found()
        yield world


async def test_emptied_cache_is_filled_again(world: World) -> None:
    with world.server.client() as client:
        client.flushall()
    assert await world.found() == {}
    await world.until_found()


async def test_restarted_cache_is_filled_again(world: World) -> None:
    await asyncio.to_thread(world.server.kill)
    await asyncio.to_thread(world.server.start)
    await world.until_found()


async def test_hung_cache_gets_what_it_missed_later(world: World) -> None:
    world.server.pause()
    try:
        for _ in range(FAILURES):
            await world.cache.get(["key-0"])
        for number in range(0, 300, 3):
            world.hold(f"key-{number}", 2)
        await world.clock.advance(4 * MARKER_SECONDS)
    finally:
        world.server.resume()
    await world.until_found()


async def test_nothing_is_put_again_while_the_cache_keeps_it(world: World) -> None:
    listed = world.listed
    for _ in range(10):
        await world.clock.advance(MARKER_SECONDS)
        await world.found()
    assert world.listed == listed


async def test_closing_ends_at_any_point_of_sending(world: World) -> None:
    for rounds in range(80):
        closing = FallbackCache(world.cache, world.clock, DAY)
        await closing.__aenter__()
        for number in range(3 * BATCH_ENTRIES):
            closing.put(entry(f"closing-{number}", rounds + 1))
        for _ in range(rounds):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await closing.__aexit__(None, None, None)


class Content:
    """Content whose instances can be counted."""

    def __call__(self) -> str:
        return "x"


async def test_queue_for_a_hung_cache_is_bounded(world: World) -> None:
    alive: WeakSet[Content] = WeakSet()
    world.server.pause()
    try:
        for number in range(3 * QUEUE_ENTRIES):
            content = Content()
            alive.add(content)
            world.fallback_cache.put(FallbackEntry(f"many-{number}", 1, content))
            if number % 1_000 == 0:
                await asyncio.sleep(0)
            assert len(alive) <= QUEUE_ENTRIES + BATCH_ENTRIES + 1
    finally:
        world.server.resume()
