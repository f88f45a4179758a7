"""A storage that may come later: a replica that starts while the database is away serves what the caches have."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from configsvc.domain.instances import Incarnation
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint, HistoryOrigin, LogState
from configsvc.domain.records import Change, Commit, Ref, View, Write
from configsvc.errors import ServiceError, Unavailable
from configsvc.storage.port import (
    READ_BYTES,
    ChangePage,
    ChangeQuery,
    Heartbeat,
    LogPage,
    OutboxLease,
    OutboxStatus,
    QuietPeriods,
    RecordPage,
    RecordQuery,
    RetentionPolicy,
    Storage,
    VersionRange,
)
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0


class DeferredStorage:
    """Opens `inner` on entering; where that is `Unavailable`, goes on trying behind the scenes.

    Until it is open every call is `Unavailable`, and says why. What else opening raises ends the entering, or, later,
    stays what calls say.
    """

    def __init__(self, inner: Storage, supervisor: Supervisor | None = None) -> None:
        self._supervisor = supervisor or Supervisor()
        self._inner = inner
        self._problem: ServiceError | None = Unavailable("the storage is closed", "STORAGE_CLOSED")
        self._opening: SupervisedTask | None = None

    @property
    def name(self) -> str:
        """The inner one's."""
        return self._inner.name

    async def get(self, refs: Sequence[Ref]) -> View:
        """See the port."""
        return await self._open().get(refs)

    async def page(self, query: RecordQuery) -> RecordPage:
        """See the port."""
        return await self._open().page(query)

    async def version(self, ref: Ref, version: int) -> Change | None:
        """See the port."""
        return await self._open().version(ref, version)

    async def versions(self, ref: Ref) -> VersionRange | None:
        """See the port."""
        return await self._open().versions(ref)

    async def search(self, query: ChangeQuery) -> ChangePage:
        """See the port."""
        return await self._open().search(query)

    async def state(self) -> LogState:
        """See the port."""
        return await self._open().state()

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        """See the port."""
        return await self._open().read(after, limit, max_bytes)

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        """See the port."""
        return await self._open().resume(seen, limit, max_bytes)

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        """See the port."""
        return await self._open().new_history_if_diverged(seen, reason)

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        """See the port."""
        return await self._open().new_history(reason, leap)

    async def history_origin(self) -> HistoryOrigin:
        """See the port."""
        return await self._open().history_origin()

    async def write(self, write: Write) -> Commit:
        """See the port."""
        return await self._open().write(write)

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        """See the port."""
        return await self._open().quiet_periods(longer_than)

    async def compact(self, policy: RetentionPolicy) -> int:
        """See the port."""
        return await self._open().compact(policy)

    async def outbox_status(self) -> OutboxStatus:
        """See the port."""
        return await self._open().outbox_status()

    @asynccontextmanager
    async def outbox_lease(self) -> AsyncIterator[OutboxLease]:
        """See the port."""
        async with self._open().outbox_lease() as lease:
            yield lease

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        """See the port."""
        return await self._open().advance_lease_clock(clock_seconds)

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        """See the port."""
        await self._open().record_heartbeats(seen)

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        """See the port."""
        await self._open().grant_leases(incarnations, clock_seconds)

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        """See the port."""
        return await self._open().heartbeats(incarnations)

    async def forget_heartbeats(self, before: float) -> None:
        """See the port."""
        await self._open().forget_heartbeats(before)

    async def ping(self) -> None:
        """See the port."""
        await self._open().ping()

    async def __aenter__(self) -> Self:
        try:
            await self._enter()
        except Unavailable as error:
            logger.error("the database is away; this replica starts with what the caches have: %s", error)
            self._problem = error
            self._opening = self._supervisor.supervise("storage opening", self._keep_trying, may_return=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opening is not None:
            await self._opening.stop()
        if self._problem is None:
            await self._inner.__aexit__(kind, error, trace)

    async def _enter(self) -> None:
        await self._inner.__aenter__()
        self._problem = None

    async def _keep_trying(self) -> None:
        pause = _SHORTEST_PAUSE_SECONDS
        while self._problem is not None:
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                await self._enter()
            except ServiceError as error:
                self._problem = error
            except Exception as error:
                logger.exception("the database can't be opened")
                self._problem = Unavailable(f"the database can't be opened: {error}")
        logger.info("the database is there")

    def _open(self) -> Storage:
        if self._problem is not None:
            # A new one for each caller: an exception that several raise would gather all of their tracebacks.
            raise Unavailable(f"the database is away: {self._problem}", self._problem.reason)
        return self._inner
