"""A shared cache whose entries carry revisions. Adapters: `local`, `redis`.

An entry is replaced only by one with a higher revision, so that a late fill can't bring an old value back. Missing in
the cache never means missing: the caller asks the store. No method raises for the backend's sake: a cache that is away
is empty, and refuses nothing but help; `ping` tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """`payload` is what the caller stored, whole; `revision` the one at which it was true."""

    revision: int
    payload: bytes


class Cache(Protocol):
    """Entries by key."""

    @property
    def name(self) -> str:
        """What it is, for people: `local`, `redis`."""
        ...

    async def get(self, keys: Sequence[str]) -> Mapping[str, CacheEntry]:
        """The entries that are there."""
        ...

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        """Stores each entry, unless the one there has the same or a higher revision.

        An entry goes after about `ttl` (jittered, so that a fleet does not refill at once), or earlier. Stored again at
        the same revision, the one there stays, and lives anew.
        """
        ...

    async def ping(self) -> None:
        """Returns where the backend answers; raises `Unavailable` where it does not."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
