"""The Redis cache on a server that is killed, paused, full or wrong."""

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
# Exceeded only if the test fails.
TIMEOUT_SECONDS = 30.0


class HandClock(SystemClock):
    """The circuit breaker's time, set by the test."""

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

    async def wait_until_answering(self) -> None:
        """Lets the breaker's pauses pass until the cache finds entries again."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
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


async def test_killed_server_is_an_empty_cache_until_it_restarts(world: World) -> None:
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    world.server.kill()
    for _ in range(2 * FAILURES):
        assert await world.cache.get(["a"]) == {}
        await world.cache.put({"a": CacheEntry(2, b"two")}, HOUR)
    with pytest.raises(Unavailable, match="has not answered since"):
        await world.cache.ping()
    world.server.start()
    await world.wait_until_answering()
    await world.cache.ping()


async def test_no_call_fails_after_a_server_restart(world: World) -> None:
    await asyncio.gather(*(world.cache.get(["a"]) for _ in range(8)))
    world.server.restart()
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}


async def test_hung_server_gets_no_calls_after_some_failures(world: World) -> None:
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    world.server.pause()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            for _ in range(FAILURES):
                assert await world.cache.get(["a"]) == {}
            # The breaker is open: if each of these calls waited for the server, the test would time out.
            for _ in range(10_000):
                assert await world.cache.get(["a"]) == {}
    finally:
        world.server.resume()
    await world.wait_until_answering()
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}


async def test_open_breaker_allows_one_trial_after_each_pause(world: World) -> None:
    world.server.kill()
    for _ in range(FAILURES):
        await world.cache.get(["a"])
    world.server.start()
    before = await world.commands()
    for _ in range(100):
        await world.cache.get(["a"])
    # Only the commands of this test and of connecting.
    assert await world.commands() - before < 10
    world.clock.seconds += LONGEST_PAUSE_SECONDS
    await world.cache.get(["a"])
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}


async def test_flushed_server_is_empty_and_accepts_entries(world: World) -> None:
    await world.cache.put({"a": CacheEntry(5, b"five")}, HOUR)
    async with world.raw() as raw:
        await raw.flushall()
        await raw.script_flush()
    assert await world.cache.get(["a"]) == {}
    await world.cache.put({"a": CacheEntry(4, b"four")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(4, b"four")}


async def test_full_server_still_answers_reads(world: World) -> None:
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    async with world.raw() as raw:
        await raw.config_set("maxmemory-policy", "noeviction")
        await raw.config_set("maxmemory", "1mb")
        for _ in range(2 * FAILURES):
            await world.cache.put({"b": CacheEntry(1, b"x" * 1_000_000)}, HOUR)
            assert await world.cache.get(["a", "b"]) == {"a": CacheEntry(1, b"one")}
        with pytest.raises(Unavailable, match="refuses entries"):
            await world.cache.ping()
        await raw.config_set("maxmemory", "0")
    world.clock.seconds += LONGEST_PAUSE_SECONDS
    await world.cache.put({"b": CacheEntry(1, b"small")}, HOUR)
    assert await world.cache.get(["b"]) == {"b": CacheEntry(1, b"small")}


async def test_wrong_password_makes_an_empty_cache(private_valkey: Callable[[], Valkey]) -> None:
    server = private_valkey()
    async with server_with_password(server), World(server, password="wrong").cache as cache:
        await cache.put({"a": CacheEntry(1, b"one")}, HOUR)
        assert await cache.get(["a"]) == {}
        with pytest.raises(Unavailable) as refused:
            await cache.ping()
        assert "wrong" not in str(refused.value)


def server_with_password(server: Valkey) -> Redis:
    """A client with the right password. Without a password on the server, the test would prove nothing."""
    assert server.password
    host, _, port = server.address.rpartition(":")
    return Redis(host=host, port=int(port), password=server.password)


async def test_late_puts_of_many_replicas_never_restore_an_old_value(world: World) -> None:
    # No call times out, even on a slow machine.
    replicas = [World(world.server, answer_seconds=TIMEOUT_SECONDS) for _ in range(10)]
    puts = [
        replica.cache.put({"a": CacheEntry(revision, b"%d" % revision)}, HOUR)
        for revision in range(1, 101)
        for replica in (replicas[revision % len(replicas)],)
    ]
    await asyncio.gather(*reversed(puts))
    assert await world.cache.get(["a"]) == {"a": CacheEntry(100, b"100")}
    for replica in replicas:
        await replica.cache.__aexit__(None, None, None)


async def test_foreign_value_counts_as_missing(world: World) -> None:
    async with world.raw() as raw:
        await raw.set("configsvc:a", b"not an entry")
    assert await world.cache.get(["a"]) == {}
    await world.cache.put({"a": CacheEntry(1, b"one")}, HOUR)
    assert await world.cache.get(["a"]) == {"a": CacheEntry(1, b"one")}
