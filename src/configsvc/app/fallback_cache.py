"""What this replica knows, kept in the shared cache for replicas that can't read the store.

Every replica puts here what it learns: each change of the log, and each read of the store. The cache keeps the highest
revision of each key, so it does not matter which replica puts an entry, or how late. Readers prefer the store, whose
answer is never older, and come here only while the store is away: so an entry costs a normal read nothing.

Entries that are derived from the log lie under the log's history, so that nobody finds an entry of a lost future.

A cache that was away, or that was emptied, is filled again from what each replica holds in memory: it may be needed
before all of that is changed or read again.
"""

import asyncio
import json
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from configsvc.app.changelog.position import LogPosition
from configsvc.backoff import Backoff
from configsvc.cache.port import Cache, CacheEntry
from configsvc.clock import Clock, SystemClock
from configsvc.domain.records import AtRevision, Ref
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# What one round trip sends.
BATCH_ENTRIES, BATCH_BYTES = 100, 1 << 20
# What may wait to be sent, if the cache is slow or away. Beyond it the entries that have waited longest are dropped.
QUEUE_ENTRIES, QUEUE_BYTES = 20_000, 32 << 20
# Entries are sent again three times within their TTL, so that none expires while it is in use.
REFRESHES_PER_TTL = 3
# How often a replica looks for the marker that it wrote. If the marker is gone, the cache has lost other entries too.
MARKER_SECONDS = 15.0
MARKER_TTL = timedelta(minutes=10)
# A refresh of many entries gives way to other tasks after each of these, so that it does not block the loop.
REFRESH_SLICE = 500
# So does the encoding of a batch. This much JSON takes about a millisecond.
ENCODING_SLICE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class FallbackEntry:
    """The state of something at a revision.

    `content` makes the JSON value when the entry is sent. `held_bytes`: about the memory that the entry keeps alive until
    then; 0 if something else holds that memory anyway.
    """

    key: str
    revision: int
    content: Callable[[], Any]
    held_bytes: int = 0


def config_key(ref: Ref) -> str:
    """The key of a configuration's entry. Lengths come first, so that no two refs share a key."""
    return f"config:{len(ref.environment)}:{ref.environment}:{len(ref.service)}:{ref.service}:{ref.key}"


class FallbackCache:
    """Sends entries in the background while its context is open. Without a cache, it keeps nothing and finds nothing.

    `log`: the entries are derived from this log, and belong to its history. None: they are not derived from a log.
    """

    def __init__(
        self,
        cache: Cache | None,
        clock: Clock,
        ttl: timedelta,
        *,
        log: LogPosition | None = None,
        name: str = "fallback cache",
        supervisor: Supervisor | None = None,
    ) -> None:
        self._name = name
        self._supervisor = supervisor or Supervisor(clock)
        self._cache = cache
        self._log = log
        self._clock = clock
        self._ttl = ttl
        self._queue: OrderedDict[str, FallbackEntry] = OrderedDict()
        self._queue_bytes = 0
        self._has_queued = asyncio.Event()
        self._has_sent = asyncio.Event()
        self._sources: list[Callable[[], Iterable[FallbackEntry]]] = []
        self._tasks: list[SupervisedTask] = []

    @property
    def is_enabled(self) -> bool:
        """Whether there is a cache to put entries in."""
        return self._cache is not None

    def put(self, entry: FallbackEntry) -> None:
        """Queues an entry to be sent soon. It replaces a queued entry of the same key, unless that one is newer."""
        if self._cache is None:
            return
        key = self._cache_key(entry.key)
        queued = self._queue.get(key)
        if queued is not None and queued.revision > entry.revision:
            return
        self._queue_bytes += entry.held_bytes - (queued.held_bytes if queued is not None else 0)
        self._queue[key] = entry
        self._queue.move_to_end(key)
        while len(self._queue) > QUEUE_ENTRIES or self._queue_bytes > QUEUE_BYTES:
            self._pop()
        self._has_queued.set()

    def _pop(self) -> tuple[str, FallbackEntry]:
        """Takes the entry that has waited longest."""
        key, entry = self._queue.popitem(last=False)
        self._queue_bytes -= entry.held_bytes
        return key, entry

    def add_source(self, source: Callable[[], Iterable[FallbackEntry]]) -> None:
        """Sends what `source` returns again and again, so that it does not expire while it is in use."""
        if self._cache is not None:
            self._sources.append(source)

    async def get(self, keys: Sequence[str]) -> Mapping[str, AtRevision[Any]]:
        """The contents of the entries that the cache has, by key."""
        found: dict[str, AtRevision[Any]] = {}
        if self._cache is None:
            return found
        names = {self._cache_key(key): key for key in keys}
        for cache_key, entry in (await self._cache.get([*names])).items():
            key = names[cache_key]
            try:
                found[key] = AtRevision(json.loads(entry.payload), entry.revision)
            except ValueError:
                logger.warning("the entry '%s' of the fallback cache can't be read: it is not JSON", key)
        return found

    async def put_if_absent(self, entries: Sequence[FallbackEntry]) -> Mapping[str, AtRevision[Any]]:
        """Sends entries now, and returns what the cache has then.

        The cache keeps the first of several entries that replicas send at the same revision; a higher revision replaces
        a lower one.
        """
        if self._cache is None or not entries:
            return {}
        await self._cache.put(
            {self._cache_key(entry.key): CacheEntry(entry.revision, _payload(entry)) for entry in entries}, self._ttl
        )
        return await self.get([entry.key for entry in entries])

    def _cache_key(self, key: str) -> str:
        history = self._log.history if self._log is not None else ""
        return f"{history}:{key}" if history else key

    async def __aenter__(self) -> Self:
        if self._cache is not None:
            work = {"sending": self._send, "refresh": self._refresh, "refill": self._refill}
            self._tasks = [self._supervisor.supervise(f"{self._name}, {part}", run) for part, run in work.items()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(task.stop() for task in self._tasks))
        await self._send_batch()

    async def _send(self) -> None:
        while True:
            await self._has_queued.wait()
            self._has_queued.clear()
            while self._queue:
                await self._send_batch()

    async def _send_batch(self) -> None:
        entries: dict[str, CacheEntry] = {}
        size = slice_size = 0
        while self._queue and len(entries) < BATCH_ENTRIES and size < BATCH_BYTES:
            if slice_size >= ENCODING_SLICE_BYTES:
                slice_size = 0
                await asyncio.sleep(0)
                continue
            key, entry = self._pop()
            entries[key] = CacheEntry(entry.revision, _payload(entry))
            size += len(entries[key].payload)
            slice_size += len(entries[key].payload)
        if self._cache is not None and entries:
            await self._cache.put(entries, self._ttl)
        self._has_sent.set()

    async def _refresh(self) -> None:
        while True:
            await self._clock.sleep(self._ttl.total_seconds() / REFRESHES_PER_TTL)
            await self._put_all()

    async def _refill(self) -> None:
        """Puts everything again after the cache has lost entries, as soon as it keeps entries again."""
        if self._cache is None:
            return
        # Jittered, so that replicas do not all write their markers at the same moment.
        pauses = Backoff(MARKER_SECONDS, MARKER_SECONDS)
        marker, number, has_lost = f"mark:{uuid.uuid4().hex}", 0, False
        while True:
            held = (await self._cache.get([marker])).get(marker)
            if held is None or held.revision != number:
                # The last marker was not accepted, or was not kept. Before the first look there was no marker.
                has_lost = number > 0
            elif has_lost:
                logger.info("the cache is back, or was emptied: everything is put in it again")
                has_lost = False
                await self._put_all()
            number += 1
            await self._cache.put({marker: CacheEntry(number, b"")}, MARKER_TTL)
            await self._clock.sleep(pauses.next())

    async def _put_all(self) -> None:
        for source in self._sources:
            for number, entry in enumerate(list(source())):
                while len(self._queue) > QUEUE_ENTRIES // 2 or self._queue_bytes > QUEUE_BYTES // 2:
                    # These entries must not push out those that were queued before them.
                    self._has_sent.clear()
                    await self._has_sent.wait()
                self.put(entry)
                if number % REFRESH_SLICE == 0:
                    await asyncio.sleep(0)


# For a replica without a shared cache.
NO_FALLBACK_CACHE = FallbackCache(None, SystemClock(), timedelta(days=1))


def _payload(entry: FallbackEntry) -> bytes:
    return json.dumps(entry.content(), ensure_ascii=False, separators=(",", ":")).encode()
