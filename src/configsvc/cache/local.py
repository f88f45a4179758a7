"""The cache of one process: least recently used entries go first, within a bound in bytes."""

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from configsvc.cache.port import CacheEntry
from configsvc.clock import Clock

# What CPython 3.11 spends on an entry besides key and payload: the objects here, their slots, the dictionary's node.
ENTRY_OVERHEAD_BYTES = 400
# An entry lives between this part of its time and all of it, so that what was filled together is not missed together.
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
        self._held: OrderedDict[str, _StoredEntry] = OrderedDict()
        self.size_bytes = 0

    @property
    def name(self) -> str:
        """`local`."""
        return "local"

    async def get(self, keys: Sequence[str]) -> Mapping[str, CacheEntry]:
        """The entries that are there; each becomes the most recently used."""
        found = {}
        for key in keys:
            held = self._live(key)
            if held is not None:
                self._held.move_to_end(key)
                found[key] = held.entry
        return found

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        """Stores each entry that is newer. One larger than the whole cache only ends the life of the older one."""
        for key, entry in entries.items():
            held = self._live(key)
            if held is not None and held.entry.revision > entry.revision:
                continue
            if held is not None and held.entry.revision == entry.revision:
                entry = held.entry
            self._drop(key)
            size = len(key.encode()) + len(entry.payload) + ENTRY_OVERHEAD_BYTES
            if size > self._max_bytes:
                continue
            life = ttl.total_seconds() * random.uniform(MIN_LIFETIME_FRACTION, 1.0)
            self._held[key] = _StoredEntry(entry, self._clock.monotonic() + life, size)
            self.size_bytes += size
            while self.size_bytes > self._max_bytes:
                self._drop(next(iter(self._held)))

    async def ping(self) -> None:
        """Returns: there is nothing that could be away."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.clear()
        self.size_bytes = 0

    def _live(self, key: str) -> _StoredEntry | None:
        held = self._held.get(key)
        if held is not None and held.expires_at <= self._clock.monotonic():
            self._drop(key)
            return None
        return held

    def _drop(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self.size_bytes -= held.size_bytes
