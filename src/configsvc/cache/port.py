"""A shared cache whose entries carry revisions. Adapters: `local`, `redis`.

- An entry is replaced only by one with a higher revision, so that a late fill can't bring an old value back.
- A missing entry does not mean that the record does not exist: the caller asks the store.
- If the backend is unreachable, `get` finds nothing and `put` stores nothing; neither raises. `ping` tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """`payload` is the caller's bytes; `revision` is the one at which they were true."""

    revision: int
    payload: bytes


class Cache(Protocol):
    """Entries by key."""

    @property
    def name(self) -> str:
        """The kind of cache, for people: `local`, `redis`."""
        ...

    async def get(self, keys: Sequence[str]) -> Mapping[str, CacheEntry]:
        """The entries that exist."""
        ...

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        """Stores each entry, unless the stored one has the same or a higher revision.

        An entry expires after about `ttl`, jittered so that entries that were stored together do not expire together, or
        it is evicted earlier. A put at the stored revision keeps the stored payload, and renews its time to live.
        """
        ...

    async def ping(self) -> None:
        """Returns if the backend answers; raises `Unavailable` if it does not."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
