"""Redis or Valkey as the cache that replicas share.

An entry is one string: its revision in 20 digits, then its payload. So revisions compare as text, also in the script
that stores them, whose numbers are doubles and end at 2^53.

Reading and writing have a breaker each: a full server takes no entry but still gives those that it has. A call waits at
most `answer_seconds`; after `FAILURES` of them in a row nobody waits any more.
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
# In a row, until the breaker opens.
FAILURES = 3
CONNECTIONS = 16
PING_LIFE = timedelta(minutes=1)

# KEYS: the entries' keys. ARGV, two for each: the entry, its life in milliseconds. The same revision lives anew.
PUT = """
for number, key in ipairs(KEYS) do
  local entry, life = ARGV[2 * number - 1], ARGV[2 * number]
  local new, held = string.sub(entry, 1, 20), redis.call('GETRANGE', key, 0, 19)
  if #held ~= 20 or held < new then
    redis.call('SET', key, entry, 'PX', life)
  elseif held == new then
    redis.call('PEXPIRE', key, life)
  end
end
return 0
"""


class RedisCache:
    """See `port.Cache`. Entering does not wait for the server; what can't be reached is an empty cache."""

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
            # Each call is bounded here. The driver's own bound would be asyncio.wait_for, which in Python 3.11 swallows a
            # cancellation that comes when it is done: a task that was cancelled would go on, and a stop never end.
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            client_name="configsvc",
        )
        # The pool refuses whoever finds no connection free: here they wait for one, as long as for an answer.
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._script = self._client.register_script(PUT)
        self._reading = CircuitBreaker(clock, FAILURES)
        self._writing = CircuitBreaker(clock, FAILURES)
        self._away_since: datetime | None = None

    async def get(self, keys: Sequence[str]) -> Mapping[str, CacheEntry]:
        """See the port."""
        if not keys:
            return {}
        values = await self._guarded(self._reading, lambda: self._client.mget([self._prefix + key for key in keys]))
        found = {key: _entry(value) for key, value in zip(keys, values or (), strict=False) if value is not None}
        return {key: entry for key, entry in found.items() if entry is not None}

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        """See the port."""
        if not entries:
            return
        arguments: list[bytes | int] = []
        for entry in entries.values():
            life = ttl.total_seconds() * random.uniform(MIN_LIFETIME_FRACTION, 1.0)
            arguments += [b"%020d" % entry.revision + entry.payload, max(1, round(life * 1000))]
        keys = [self._prefix + key for key in entries]
        await self._guarded(self._writing, lambda: self._script(keys=keys, args=arguments))

    async def ping(self) -> None:
        """See the port."""
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._once_more(lambda: self._client.ping())
        except (RedisError, OSError, TimeoutError) as error:
            self._away_since = self._away_since or self._clock.now()
            since = self._away_since.isoformat()
            raise Unavailable(
                f"the cache has not answered since {since}: {_said(error)}", "CACHE_UNAVAILABLE"
            ) from error
        if self._writing.is_open:
            # Nobody else may be writing, and then nobody would ever know that it takes entries again.
            await self.put({"ping": CacheEntry(1, b"")}, PING_LIFE)
        if self._writing.is_open:
            raise Unavailable("the cache answers, but takes no entries", "CACHE_UNAVAILABLE")
        self._away_since = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def _guarded(self, breaker: CircuitBreaker, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer; None where the server is away or says no."""
        if not breaker.allows_call():
            return None
        try:
            async with asyncio.timeout(self._answer_seconds):
                answer = await self._once_more(call)
        except (RedisError, OSError, TimeoutError) as error:
            if breaker.record_failure():
                self._away_since = self._away_since or self._clock.now()
                logger.warning("the cache is not asked any more but for trials: %s", _said(error))
            return None
        if breaker.record_success():
            logger.info("the cache is back")
        self._away_since = None
        return answer

    async def _once_more(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """A connection that died while it lay in the pool fails its next call, whatever the server is now."""
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


def _said(error: BaseException) -> str:
    if isinstance(error, ResponseError):
        # The server's own words; they hold no secret of ours.
        return str(error)
    return type(error).__name__
