"""Replicas that evaluate flags over one storage and one shared cache."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from configsvc_client.evaluation import Context, Flag

from configsvc.app.fallback_cache import FallbackCache
from configsvc.app.flags.evaluator import Evaluator
from configsvc.app.flags.sets import FlagSets
from configsvc.app.flags.sticky import StickyAssignments
from configsvc.app.flags.store import FlagStore
from configsvc.bus.local import LocalBus
from configsvc.cache.local import LocalCache
from configsvc.cache.port import Cache, CacheEntry
from configsvc.domain.flags import flag_ref
from configsvc.domain.limits import Limits
from configsvc.domain.records import Author
from configsvc.storage.port import Storage
from tests.app.fake_clock import FakeClock
from tests.app.replica import AT, open_replica, open_storage

AUTHOR = Author("tester", "", "", AT)
HOUR = timedelta(hours=1)
USERS = [f"u{number}" for number in range(60)]


class CountingCache:
    """A cache that counts its round trips, without those of the marks in the background, and can be away."""

    name = "counting"

    def __init__(self, inner: Cache) -> None:
        self._inner = inner
        self.round_trips = 0
        self.is_away = False

    async def get(self, keys: Sequence[str]) -> Mapping[str, CacheEntry]:
        self.round_trips += not any(key.startswith("mark:") for key in keys)
        return {} if self.is_away else await self._inner.get(keys)

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        self.round_trips += not any(key.startswith("mark:") for key in entries)
        if not self.is_away:
            await self._inner.put(entries, ttl)

    async def ping(self) -> None:
        await self._inner.ping()

    async def __aenter__(self) -> "CountingCache":
        return self

    async def __aexit__(self, *_: object) -> None:
        return


class World:
    """Replicas over one storage and one cache."""

    def __init__(self, storage: Storage, stack: AsyncExitStack) -> None:
        self.clock = FakeClock()
        self.cache = CountingCache(LocalCache(1 << 24, self.clock))
        self.storage = storage
        self._stack = stack
        self._bus = LocalBus()
        self.store = FlagStore(writer=storage, reader=storage, history=storage, limits=Limits(), keeps_assignments=True)

    async def evaluator(self) -> Evaluator:
        """The evaluator of a new replica."""
        replica = await self._stack.enter_async_context(open_replica(self.storage, self.clock))
        fallback_cache = await self._stack.enter_async_context(FallbackCache(self.cache, self.clock, HOUR))
        sets = FlagSets(reader=replica.storage, tail=replica.tail)
        replica.tail.subscribe(sets)
        return Evaluator(sets=sets, assignments=StickyAssignments(fallback_cache), tail=replica.tail, limits=Limits())

    async def flag(self, name: str = "f", **members: Any) -> None:
        """Writes the whole flag: members that are not given have their defaults."""
        definition = Flag.from_json({"name": name, "environment": "test", "enabled": True, **members}).to_json()
        await self.store.update(flag_ref("test", name), definition, AUTHOR, allow_missing=True)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    async with open_storage(folder) as storage, AsyncExitStack() as stack:
        yield World(storage, stack)


async def variants_by_user(evaluator: Evaluator, name: str = "f") -> dict[str, str]:
    """The variant that each user is served."""
    found = {}
    for user in USERS:
        evaluation = (await evaluator.one("test", name, Context(user))).value
        found[user] = evaluation.variant
    return found
