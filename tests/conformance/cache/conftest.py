"""The adapters that the suite runs over. An adapter yields a `Bench`; add it to `ADAPTERS`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from configsvc.cache.local import LocalCache
from configsvc.cache.port import Cache
from tests.app.fake_clock import FakeClock


@dataclass(frozen=True, slots=True)
class Bench:
    """A cache, and what a test may do to its surroundings: `elapse` lets this much time pass for the backend."""

    cache: Cache
    elapse: Callable[[timedelta], Awaitable[None]]


@asynccontextmanager
async def local(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    clock = FakeClock()

    async def elapse(time: timedelta) -> None:
        await clock.advance(time.total_seconds())

    async with LocalCache(64 * 1024 * 1024, clock) as cache:
        yield Bench(cache, elapse)


ADAPTERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Bench]]] = {"local": local}


@pytest.fixture(params=ADAPTERS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with ADAPTERS[request.param](request) as opened:
        yield opened


@pytest.fixture
async def cache(bench: Bench) -> Cache:
    return bench.cache
