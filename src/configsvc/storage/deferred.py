"""A storage that may open later: a replica that starts while the database is unreachable serves from the caches."""

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from configsvc.backoff import Backoff
from configsvc.clock import Clock, SystemClock
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

# A replica should find the database soon after it is back.
SHORTEST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.2, 2.0

_SYSTEM_CLOCK = SystemClock()


class DeferredStorage:
    """Opens `inner` when the context is entered. If `inner` is `Unavailable`, goes on trying in the background.

    Until it is open, every call raises `Unavailable` with the reason. If opening raises another error at first, entering
    the context raises it; if it does so later, calls report it.
    """

    def __init__(self, inner: Storage, supervisor: Supervisor | None = None, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._inner = inner
        self._supervisor = supervisor or Supervisor(clock)
        self._clock = clock
        self._failure: ServiceError | None = Unavailable("the storage is closed", "STORAGE_CLOSED")
        self._opening: SupervisedTask | None = None

    @property
    def name(self) -> str:
        """The inner storage's."""
        return self._inner.name

    async def get(self, refs: Sequence[Ref]) -> View:
        return await self._opened().get(refs)

    async def page(self, query: RecordQuery) -> RecordPage:
        return await self._opened().page(query)

    async def version(self, ref: Ref, version: int) -> Change | None:
        return await self._opened().version(ref, version)

    async def versions(self, ref: Ref) -> VersionRange | None:
        return await self._opened().versions(ref)

    async def search(self, query: ChangeQuery) -> ChangePage:
        return await self._opened().search(query)

    async def state(self) -> LogState:
        return await self._opened().state()

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        return await self._opened().read(after, limit, max_bytes)

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        return await self._opened().resume(seen, limit, max_bytes)

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        return await self._opened().new_history_if_diverged(seen, reason)

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        return await self._opened().new_history(reason, leap)

    async def history_origin(self) -> HistoryOrigin:
        return await self._opened().history_origin()

    async def write(self, write: Write) -> Commit:
        return await self._opened().write(write)

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        return await self._opened().quiet_periods(longer_than)

    async def compact(self, policy: RetentionPolicy) -> int:
        return await self._opened().compact(policy)

    async def outbox_status(self) -> OutboxStatus:
        return await self._opened().outbox_status()

    @asynccontextmanager
    async def outbox_lease(self) -> AsyncIterator[OutboxLease]:
        async with self._opened().outbox_lease() as lease:
            yield lease

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        return await self._opened().advance_lease_clock(clock_seconds)

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        await self._opened().record_heartbeats(seen)

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        await self._opened().grant_leases(incarnations, clock_seconds)

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        return await self._opened().heartbeats(incarnations)

    async def forget_heartbeats(self, before: float) -> None:
        await self._opened().forget_heartbeats(before)

    async def ping(self) -> None:
        await self._opened().ping()

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except Unavailable as error:
            logger.error("the database is unreachable; this replica starts with what the caches have: %s", error)
            self._failure = error
            self._opening = self._supervisor.supervise("storage opening", self._open_with_retries, may_return=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opening is not None:
            await self._opening.stop()
        if self._failure is None:
            await self._inner.__aexit__(kind, error, trace)

    async def _open(self) -> None:
        await self._inner.__aenter__()
        self._failure = None

    async def _open_with_retries(self) -> None:
        backoff = Backoff(SHORTEST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while self._failure is not None:
            await self._clock.sleep(backoff.next())
            try:
                await self._open()
            except ServiceError as error:
                self._failure = error
            except Exception as error:
                logger.exception("the database can't be opened")
                self._failure = Unavailable(f"the database can't be opened: {error}")
        logger.info("the database is open")

    def _opened(self) -> Storage:
        if self._failure is not None:
            # A new error for each caller: one that several raise would gather all their tracebacks.
            raise Unavailable(f"the database is away: {self._failure}", self._failure.reason)
        return self._inner
