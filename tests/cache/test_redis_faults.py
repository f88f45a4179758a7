"""What a broken Redis costs, with a real server that is really broken."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from configsvc.cache.circuit_breaker import LONGEST_PAUSE_SECONDS
from configsvc.cache.port import CacheEntry
from configsvc.cache.redis import FAILURES, RedisCache
from configsvc.clock import SystemClock
from configsvc.errors import Unavailable
from tests.engines.valkey import Valkey

HOUR = timedelta(hours=1)
# Reached only where the test fails.
PATIENCE_SECONDS = 30.0


class HandClock(SystemClock):
    """The breaker's pauses pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


class World:
    """A server, a cache on it, and its clock."""

    def __init__(self, server: Valkey, *, password: str | None = None, answer_seconds: float = 0.25) -> None:
        self.server = server
        self.clock = HandClock()
        host, _, port = server.address.rpartition(":")
        self.host, self.port = host, int(port)
        self.cache = RedisCache(
            host=host,
            port=self.port,
            password=server.password if password is None else password,
            clock=self.clock,
            answer_seconds=answer_seconds,
        )

    def raw(self) -> Redis:
        return Redis(host=self.host, port=self.port, password=self.server.password)

    async def commands(self) -> int:
        """How many commands the server has processed."""
        async with self.raw() as raw:
            return int((await raw.info("stats"))["total_commands_processed"])

    async def until_answering(self) -> None:
        """Lets pauses pass until the cache gives what it has."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                self.clock.seconds += LONGEST_PAUSE_SECONDS
                await self.cache.put({"probe": CacheEntry(1, b"1")}, HOUR)
                self.clock.seconds += LONGEST_PAUSE_SECONDS
                if await self.cache.get(["probe"]):
                    return


@pytest.fixture
async def world(private_valkey: Callable[[], Valkey]) -> AsyncIterator[World]:
    world = World(private_valkey())
    async with world.cache:
        yield world


async def test_a_killed_server_is_an_empty_cache_and_comes_back(world: World) -> None:
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    world.server.kill()
    for _ in range(2 * FAILURES):
        assert await world.cache.get(["a"]) == {}
        await world.cache.put({"a": CacheEntry(2, b"two")}, HOUR)
    with pytest.raises(Unavailable, match="has not answered since"):
        await world.cache.ping()
    world.server.start()
    await world.until_answering()
    await world.cache.ping()


async def test_a_restarted_server_costs_not_one_call(world: World) -> None:
    await asyncio.gather(*(world.cache.get(["a"]) for _ in range(8)))
    world.server.restart()
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}


async def test_a_hung_server_is_asked_a_few_times_and_then_not_any_more(world: World) -> None:
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    world.server.pause()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(FAILURES):
                assert await world.cache.get(["a"]) == {}
            # Open: were each of these to wait for the server, the test would not end in time.
            for _ in range(10_000):
                assert await world.cache.get(["a"]) == {}
    finally:
        world.server.resume()
    await world.until_answering()
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}


async def test_an_open_breaker_lets_one_trial_through_after_each_pause(world: World) -> None:
    world.server.kill()
    for _ in range(FAILURES):
        await world.cache.get(["a"])
    world.server.start()
    before = await world.commands()
    for _ in range(100):
        await world.cache.get(["a"])
    # Nothing but the question itself, and what it takes to connect.
    assert await world.commands() - before < 10
    world.clock.seconds += LONGEST_PAUSE_SECONDS
    await world.cache.get(["a"])
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}


async def test_a_flushed_server_has_nothing_and_takes_entries(world: World) -> None:
    await world.cache.put({"a": CacheEntry(5, b"five")}, HOUR)
    async with world.raw() as raw:
        await raw.flushall()
        await raw.script_flush()
    assert await world.cache.get(["a"]) == {}
    await world.cache.put({"a": CacheEntry(4, b"four")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(4, b"four")}


async def test_a_full_server_still_gives_what_it_has(world: World) -> None:
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    async with world.raw() as raw:
        await raw.config_set("maxmemory-policy", "noeviction")
        await raw.config_set("maxmemory", "1mb")
        for _ in range(2 * FAILURES):
            await world.cache.put({"b": CacheEntry(1, b"x" * 1_000_000)}, HOUR)
            assert await world.cache.get(["a", "b"]) == {"a": CacheEntry(1, b"one")}
        with pytest.raises(Unavailable, match="takes no entries"):
            await world.cache.ping()
        await raw.config_set("maxmemory", "0")
    world.clock.seconds += LONGEST_PAUSE_SECONDS
    await world.cache.put({"b": CacheEntry(1, b"small")}, HOUR)
    assert await world.cache.get(["b"]) == {"b": CacheEntry(1, b"small")}


async def test_a_wrong_password_is_an_absent_cache(private_valkey: Callable[[], Valkey]) -> None:
    server = private_valkey()
    async with server_with_password(server), World(server, password="wrong").cache as cache:
        await cache.put({"a": CacheEntry(1, b"one")}, HOUR)
        assert await cache.get(["a"]) == {}
        with pytest.raises(Unavailable) as refused:
            await cache.ping()
        assert "wrong" not in str(refused.value)


def server_with_password(server: Valkey) -> Redis:
    """The server as its owner reaches it; it has a password, or the test would show nothing."""
    assert server.password
    host, _, port = server.address.rpartition(":")
    return Redis(host=host, port=int(port), password=server.password)


async def test_late_fills_of_many_replicas_never_bring_an_old_value_back(world: World) -> None:
    # None of them gives up, on however slow a machine.
    replicas = [World(world.server, answer_seconds=PATIENCE_SECONDS) for _ in range(10)]
    puts = [
        replica.cache.put({"a": CacheEntry(revision, b"%d" % revision)}, HOUR)
        for revision in range(1, 101)
        for replica in (replicas[revision % len(replicas)],)
    ]
    await asyncio.gather(*reversed(puts))
    assert await world.cache.get(["a"]) == {"a": CacheEntry(100, b"100")}
    for replica in replicas:
        await replica.cache.__aexit__(None, None, None)


async def test_something_that_is_not_an_entry_is_missing(world: World) -> None:
    async with world.raw() as raw:
        await raw.set("configsvc:a", b"not an entry")
    assert await world.cache.get(["a"]) == {}
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}
