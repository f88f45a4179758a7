"""The cache of one process: bounded in bytes, and evicts the least recently used entries first."""

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from configsvc.cache.port import CacheEntry
from configsvc.clock import Clock

# The memory that CPython 3.11 needs for an entry in addition to key and payload: objects, slots, the dictionary's node.
ENTRY_OVERHEAD_BYTES = 400
# An entry lives for a random time between this fraction of its TTL and all of it, so that entries that were stored
# together do not expire together.
MIN_LIFETIME_FRACTION = 0.9


@dataclass(frozen=True, slots=True)
class _StoredEntry:
    entry: CacheEntry
    expires_at: float
    size_bytes: int


class LocalCache:
    """Entries in this process's memory, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _StoredEntry] = OrderedDict()
        self.size_bytes = 0

    @property
    def name(self) -> str:
        """`local`."""
        return "local"

    async def get(self, keys: Sequence[str]) -> Mapping[str, CacheEntry]:
        found = {}
        for key in keys:
            stored = self._live(key)
            if stored is not None:
                self._entries.move_to_end(key)
                found[key] = stored.entry
        return found

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        """As the port says. An entry that is larger than the whole cache is not stored, but removes an older one."""
        for key, entry in entries.items():
            stored = self._live(key)
            if stored is not None and stored.entry.revision > entry.revision:
                continue
            if stored is not None and stored.entry.revision == entry.revision:
                entry = stored.entry
            self._drop(key)
            size = len(key.encode()) + len(entry.payload) + ENTRY_OVERHEAD_BYTES
            if size > self._max_bytes:
                continue
            life = ttl.total_seconds() * random.uniform(MIN_LIFETIME_FRACTION, 1.0)
            self._entries[key] = _StoredEntry(entry, self._clock.monotonic() + life, size)
            self.size_bytes += size
            while self.size_bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    async def ping(self) -> None:
        """Always returns."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entries.clear()
        self.size_bytes = 0

    def _live(self, key: str) -> _StoredEntry | None:
        stored = self._entries.get(key)
        if stored is not None and stored.expires_at <= self._clock.monotonic():
            self._drop(key)
            return None
        return stored

    def _drop(self, key: str) -> None:
        stored = self._entries.pop(key, None)
        if stored is not None:
            self.size_bytes -= stored.size_bytes
