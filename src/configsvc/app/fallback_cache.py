"""What this replica knows, left in the shared cache for replicas that can't read the store.

Every replica leaves what passes through its hands: each change that the log tells, and each read of the store. The
cache keeps the highest revision of each, so it does not matter who leaves it, or how late. Reads prefer the store, whose
answer is never older, and come here while it is away; so what is here costs no read anything, and is never taken for
more than a copy.

What is derived from the log lies under the log's history, so that nobody finds a copy of a future that is lost.

A cache that was away, or was emptied, is filled anew from what each replica holds: it may be needed before anyone
changes or reads all of that again.
"""

import asyncio
import json
import logging
import random
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from configsvc.app.changelog.position import LogPosition
from configsvc.cache.port import Cache, Entry
from configsvc.clock import Clock, SystemClock
from configsvc.domain.records import Ref
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Copies sent in one round trip, and copies that may wait for one: the cache is slow or away, and the oldest waiting go.
SENT_TOGETHER, SENT_BYTES = 100, 1 << 20
WAITING_COPIES, WAITING_BYTES = 20_000, 32 << 20
# Copies are left anew in this part of their life, so that what is in use never goes.
RENEWED_IN_A_LIFE = 3
# How often each replica looks whether its mark is still there: where it is not, the cache has lost more than that.
MARK_SECONDS = 15.0
MARK_LIFE = timedelta(minutes=10)
# A pause after each look at everything that is held, so that renewing a large cache does not hold the loop.
RENEWED_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Copy:
    """Something at a revision. `content` makes the JSON value, when it is sent. `held_bytes`: about what it keeps in
    memory until then; 0 if that is there anyway."""

    key: str
    revision: int
    content: Callable[[], Any]
    held_bytes: int = 0


def config_key(ref: Ref) -> str:
    """Where a configuration's copy lies. Lengths come first, so that no two refs share a key."""
    return f"config:{len(ref.environment)}:{ref.environment}:{len(ref.service)}:{ref.service}:{ref.key}"


class FallbackCache:
    """Leaves copies behind the scenes while its context is open, and reads those of others; without a cache, neither.

    `log`: the copies are derived from this log, and lie under its history; None: they are not derived from a log.
    """

    def __init__(
        self,
        cache: Cache | None,
        clock: Clock,
        life: timedelta,
        *,
        log: LogPosition | None = None,
        name: str = "copies",
        supervisor: Supervisor | None = None,
    ) -> None:
        self._name = name
        self._supervisor = supervisor or Supervisor(clock)
        self._cache = cache
        self._log = log
        self._clock = clock
        self._life = life
        self._waiting: OrderedDict[str, Copy] = OrderedDict()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._fewer = asyncio.Event()
        self._sources: list[Callable[[], Iterable[Copy]]] = []
        self._tasks: list[SupervisedTask] = []

    @property
    def are_kept(self) -> bool:
        """Whether there is a cache to leave them in."""
        return self._cache is not None

    def leave(self, copy: Copy) -> None:
        """Leaves a copy soon. One that waits already is replaced by a newer one."""
        if self._cache is None:
            return
        key = self._place(copy.key)
        waiting = self._waiting.get(key)
        if waiting is not None and waiting.revision > copy.revision:
            return
        self._waiting_bytes += copy.held_bytes - (waiting.held_bytes if waiting is not None else 0)
        self._waiting[key] = copy
        self._waiting.move_to_end(key)
        while len(self._waiting) > WAITING_COPIES or self._waiting_bytes > WAITING_BYTES:
            self._next()
        self._more.set()

    def _next(self) -> tuple[str, Copy]:
        """Takes the copy that has waited longest."""
        key, copy = self._waiting.popitem(last=False)
        self._waiting_bytes -= copy.held_bytes
        return key, copy

    def renew(self, source: Callable[[], Iterable[Copy]]) -> None:
        """Leaves what `source` holds anew, from time to time, so that it does not go while it is in use."""
        if self._cache is not None:
            self._sources.append(source)

    async def find(self, keys: Sequence[str]) -> Mapping[str, tuple[int, Any]]:
        """Revision and content of the copies that are there."""
        found: dict[str, tuple[int, Any]] = {}
        if self._cache is None:
            return found
        places = {self._place(key): key for key in keys}
        for place, entry in (await self._cache.get([*places])).items():
            key = places[place]
            try:
                found[key] = (entry.revision, json.loads(entry.payload))
            except ValueError:
                logger.warning("the cache has something under '%s' that is not a copy", key)
        return found

    async def settle(self, copies: Sequence[Copy]) -> Mapping[str, tuple[int, Any]]:
        """Leaves these at once, and returns what is there then: of several replicas' the first, at one revision."""
        if self._cache is None or not copies:
            return {}
        await self._cache.put(
            {self._place(copy.key): Entry(copy.revision, _payload(copy)) for copy in copies}, self._life
        )
        return await self.find([copy.key for copy in copies])

    def _place(self, key: str) -> str:
        history = self._log.history if self._log is not None else ""
        return f"{history}:{key}" if history else key

    async def __aenter__(self) -> Self:
        if self._cache is not None:
            work = {"sending": self._send, "renewal": self._renew, "refill": self._refill}
            self._tasks = [self._supervisor.supervise(f"{self._name}, {part}", run) for part, run in work.items()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(task.stop() for task in self._tasks))
        await self._send_some()

    async def _send(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                await self._send_some()

    async def _send_some(self) -> None:
        entries: dict[str, Entry] = {}
        size = 0
        while self._waiting and len(entries) < SENT_TOGETHER and size < SENT_BYTES:
            key, copy = self._next()
            entries[key] = Entry(copy.revision, _payload(copy))
            size += len(entries[key].payload)
        if self._cache is not None and entries:
            await self._cache.put(entries, self._life)
        self._fewer.set()

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(self._life.total_seconds() / RENEWED_IN_A_LIFE)
            await self._leave_all()

    async def _refill(self) -> None:
        if self._cache is None:
            return
        mark, number, has_lost = f"mark:{uuid.uuid4().hex}", 0, False
        while True:
            held = (await self._cache.get([mark])).get(mark)
            if held is None or held.revision != number:
                # Nothing was taken, or nothing was kept, since the last look; at the first there was none.
                has_lost = number > 0
            elif has_lost:
                logger.info("the cache is back, or was emptied: everything is left in it anew")
                has_lost = False
                await self._leave_all()
            number += 1
            await self._cache.put({mark: Entry(number, b"")}, MARK_LIFE)
            await self._clock.sleep(random.uniform(MARK_SECONDS / 2, MARK_SECONDS))

    async def _leave_all(self) -> None:
        for source in self._sources:
            for number, copy in enumerate(list(source())):
                while self._waiting_bytes > WAITING_BYTES // 2:
                    # What is left now must not push out what was left before it.
                    self._fewer.clear()
                    await self._fewer.wait()
                self.leave(copy)
                if number % RENEWED_TOGETHER == 0:
                    await asyncio.sleep(0)


# Of a replica that has no cache to share.
NO_FALLBACK_CACHE = FallbackCache(None, SystemClock(), timedelta(days=1))


def _payload(copy: Copy) -> bytes:
    return json.dumps(copy.content(), ensure_ascii=False, separators=(",", ":")).encode()
