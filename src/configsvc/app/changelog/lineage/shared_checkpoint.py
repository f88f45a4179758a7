"""The furthest checkpoint of the log that any replica has seen, in the shared cache.

It outlives all replicas, so that a replica that starts after a restore notices that the log has lost revisions.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from configsvc.cache.port import Cache, CacheEntry
from configsvc.clock import Clock, wait_for_event
from configsvc.domain.lineage import Checkpoint
from configsvc.errors import ServiceError

logger = logging.getLogger(__name__)

# The key does not contain a history, because the entry tells which history is current.
CACHE_KEY = "log"
# A service that was off for longer than this finds no checkpoint.
TTL = timedelta(days=90)
# The checkpoint is exchanged this often, and after a change as soon as the pause is over.
EXCHANGE_SECONDS, PAUSE_SECONDS = 15.0, 0.1


class SharedCheckpoint:
    """This replica's checkpoint, exchanged with the other replicas' through the cache. Without a cache, not exchanged."""

    def __init__(self, cache: Cache | None, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._own: Checkpoint | None = None
        self._advanced = asyncio.Event()

    @property
    def is_enabled(self) -> bool:
        """Whether there is a cache to put it in."""
        return self._cache is not None

    async def get(self) -> Checkpoint | None:
        """The furthest one that a replica has put; None if there is none, or the cache can't be reached."""
        if self._cache is None:
            return None
        entry = (await self._cache.get([CACHE_KEY])).get(CACHE_KEY)
        if entry is None:
            return None
        try:
            history, digest = json.loads(entry.payload)
        except ValueError:
            logger.warning("the entry '%s' of the cache is not a checkpoint of the log", CACHE_KEY)
            return None
        return Checkpoint(str(history), entry.revision, str(digest))

    def advance(self, own: Checkpoint) -> None:
        """This replica's checkpoint is now `own`; `exchange` puts it soon."""
        self._own = own
        self._advanced.set()

    async def exchange(self, on_newer: Callable[[Checkpoint], Awaitable[None]]) -> None:
        """Runs forever: puts this replica's checkpoint, and calls `on_newer` if another one's is of a later revision.

        The cache keeps the highest revision. A later history begins above the earlier one, so that is the latest.
        """
        while True:
            self._advanced.clear()
            await self._exchange_once(on_newer)
            await self._clock.sleep(PAUSE_SECONDS)
            await wait_for_event(self._clock, EXCHANGE_SECONDS, self._advanced)

    async def _exchange_once(self, on_newer: Callable[[Checkpoint], Awaitable[None]]) -> None:
        own = self._own
        if self._cache is None or own is None or not own.history:
            return
        payload = json.dumps([own.history, own.digest]).encode()
        await self._cache.put({CACHE_KEY: CacheEntry(own.revision, payload)}, TTL)
        shared = await self.get()
        if shared is not None and self._own is not None and shared.revision > self._own.revision:
            try:
                await on_newer(shared)
            except ServiceError as error:
                logger.debug("the log can't be compared with the shared checkpoint now: %s", error)
