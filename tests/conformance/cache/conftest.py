"""The adapters that the suite runs over. An adapter yields a `Bench`; add it to `ADAPTERS`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from configsvc.cache.local import LocalCache
from configsvc.cache.port import Cache
from configsvc.cache.redis import RedisCache
from configsvc.clock import SystemClock
from tests.app.fake_clock import FakeClock
from tests.engines.plugin import RedisAddress


@dataclass(frozen=True, slots=True)
class Bench:
    """A cache; `elapse` lets time pass for its backend."""

    cache: Cache
    elapse: Callable[[timedelta], Awaitable[None]]


@asynccontextmanager
async def local(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    clock = FakeClock()

    async def elapse(time: timedelta) -> None:
        await clock.advance(time.total_seconds())

    async with LocalCache(64 * 1024 * 1024, clock) as cache:
        yield Bench(cache, elapse)


@asynccontextmanager
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    address: RedisAddress = request.getfixturevalue("redis_address")

    async def elapse(time: timedelta) -> None:
        """Shortens the remaining TTL of every entry, which is what time does to it."""
        async with Redis(host=address.host, port=address.port, password=address.password, db=address.database) as raw:
            async for key in raw.scan_iter():
                left = await raw.pttl(key) - round(time.total_seconds() * 1000)
                await (raw.pexpire(key, left) if left > 0 else raw.delete(key))

    cache = RedisCache(
        host=address.host,
        port=address.port,
        password=address.password,
        database=address.database,
        clock=SystemClock(),
        # Longer than any answer takes, even on a slow machine.
        answer_seconds=30.0,
    )
    async with cache:
        yield Bench(cache, elapse)


ADAPTERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Bench]]] = {
    "local": local,
    "redis": redis,
}


@pytest.fixture(params=ADAPTERS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with ADAPTERS[request.param](request) as opened:
        yield opened


@pytest.fixture
async def cache(bench: Bench) -> Cache:
    return bench.cache
