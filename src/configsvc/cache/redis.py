"""Redis or Valkey as the cache that replicas share.

An entry is one string: its revision in 20 digits, then its payload. So revisions compare as text, also in the script that
stores them: its numbers are doubles, which are exact only up to 2^53.

Reads and writes have a circuit breaker each: a full server refuses entries, but still answers reads. A call waits at most
`answer_seconds`; after `FAILURES` failures in a row no call waits any more.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import RedisError, ResponseError

from configsvc.cache.circuit_breaker import CircuitBreaker
from configsvc.cache.local import MIN_LIFETIME_FRACTION
from configsvc.cache.port import CacheEntry
from configsvc.clock import Clock
from configsvc.errors import Unavailable

logger = logging.getLogger(__name__)

REVISION_DIGITS = 20
# In a row; then the circuit breaker opens.
FAILURES = 3
CONNECTIONS = 16
PING_TTL = timedelta(minutes=1)

# KEYS: the entries' keys. ARGV, two for each: the entry, its TTL in milliseconds. The same revision gets a new TTL.
PUT = """
for number, key in ipairs(KEYS) do
  local entry, ttl = ARGV[2 * number - 1], ARGV[2 * number]
  local new, stored = string.sub(entry, 1, 20), redis.call('GETRANGE', key, 0, 19)
  if #stored ~= 20 or stored < new then
    redis.call('SET', key, entry, 'PX', ttl)
  elseif stored == new then
    redis.call('PEXPIRE', key, ttl)
  end
end
return 0
"""


class RedisCache:
    """Entering the context does not wait for the server: one that can't be reached is an empty cache."""

    name = "redis"

    def __init__(
        self,
        *,
        host: str,
        port: int,
        password: str = "",
        clock: Clock,
        database: int = 0,
        prefix: str = "configsvc:",
        answer_seconds: float = 0.25,
    ) -> None:
        self._prefix = prefix
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._client: Redis = Redis(
            host=host,
            port=port,
            db=database,
            password=password or None,
            max_connections=CONNECTIONS,
            socket_connect_timeout=answer_seconds,
            # Calls are bounded by `answer_seconds` here. The driver would use asyncio.wait_for, which in Python 3.11 loses a
            # cancellation that arrives when the awaited call is done: the cancelled task would go on, and a stop hang.
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            client_name="configsvc",
        )
        # The pool raises if no connection is free. Here a call waits for one, within `answer_seconds`.
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._script = self._client.register_script(PUT)
        self._reading = CircuitBreaker(clock, FAILURES)
        self._writing = CircuitBreaker(clock, FAILURES)
        self._down_since: datetime | None = None

    async def get(self, keys: Sequence[str]) -> Mapping[str, CacheEntry]:
        if not keys:
            return {}
        values = await self._guarded(self._reading, lambda: self._client.mget([self._prefix + key for key in keys]))
        found = {key: _entry(value) for key, value in zip(keys, values or (), strict=False) if value is not None}
        return {key: entry for key, entry in found.items() if entry is not None}

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        if not entries:
            return
        arguments: list[bytes | int] = []
        for entry in entries.values():
            seconds = ttl.total_seconds() * random.uniform(MIN_LIFETIME_FRACTION, 1.0)
            arguments += [b"%020d" % entry.revision + entry.payload, max(1, round(seconds * 1000))]
        keys = [self._prefix + key for key in entries]
        await self._guarded(self._writing, lambda: self._script(keys=keys, args=arguments))

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._with_reconnect(lambda: self._client.ping())
        except (RedisError, OSError, TimeoutError) as error:
            self._down_since = self._down_since or self._clock.now()
            since = self._down_since.isoformat()
            raise Unavailable(
                f"the cache has not answered since {since}: {_reason_of(error)}", "CACHE_UNAVAILABLE"
            ) from error
        if self._writing.is_open:
            # Find out whether the server accepts entries again: there may be no other writer.
            await self.put({"ping": CacheEntry(1, b"")}, PING_TTL)
        if self._writing.is_open:
            raise Unavailable("the cache answers, but refuses entries", "CACHE_UNAVAILABLE")
        self._down_since = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def _guarded(self, breaker: CircuitBreaker, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer; None if the server is unreachable or refuses the call."""
        if not breaker.allows_call():
            return None
        try:
            async with asyncio.timeout(self._answer_seconds):
                answer = await self._with_reconnect(call)
        except (RedisError, OSError, TimeoutError) as error:
            if breaker.record_failure():
                self._down_since = self._down_since or self._clock.now()
                logger.warning("the cache gets no more calls except trials: %s", _reason_of(error))
            return None
        if breaker.record_success():
            logger.info("the cache answers again")
        self._down_since = None
        return answer

    async def _with_reconnect(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Calls, and once again if the connection died while it was idle in the pool, as after a restart of the server."""
        async with self._connections:
            try:
                return await call()
            except (LostConnection, ConnectionError):
                await self._client.connection_pool.disconnect(inuse_connections=False)
                return await call()


def _entry(value: bytes) -> CacheEntry | None:
    digits = value[:REVISION_DIGITS]
    if len(digits) < REVISION_DIGITS or not digits.isdigit():
        return None
    return CacheEntry(int(digits), value[REVISION_DIGITS:])


def _reason_of(error: BaseException) -> str:
    if isinstance(error, ResponseError):
        # The server's own text, which holds no secret of this service.
        return str(error)
    return type(error).__name__
