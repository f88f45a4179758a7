"""An outbox and a log in memory, for tests of the relay that decide when the store fails."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from configsvc.clock import Clock
from configsvc.domain.events import EventLoss
from configsvc.domain.lineage import LogState
from configsvc.domain.records import Change
from configsvc.errors import Unavailable
from configsvc.storage.port import READ_BYTES, OutboxLease, OutboxStatus


class MemoryOutbox:
    """A log with an outbox. While `away` is set no lease is given, and a lease that is held is lost at its next call."""

    def __init__(self, clock: Clock, changes: Sequence[Change] = ()) -> None:
        self._clock = clock
        self.changes = list(changes)
        self.cursor = 0
        self.away = False
        self.leases = 0
        self.waits = 0
        self.keep_alives = 0
        self.failures: list[str] = []

    @asynccontextmanager
    async def outbox_lease(self) -> AsyncIterator[OutboxLease]:
        self._check()
        self.leases += 1
        yield self

    async def outbox_status(self) -> OutboxStatus:
        self._check()
        waiting = [change for change in self.changes if change.revision > self.cursor]
        since: datetime | None = waiting[0].at if waiting else None
        return OutboxStatus(self.cursor, len(waiting), since, self.failures[-1] if self.failures else "", 0, 0, None)

    async def published(self) -> int:
        self._check()
        return self.cursor

    async def advance(self, revision: int, losses: Sequence[EventLoss] = ()) -> None:
        self._check()
        self.cursor = revision

    async def report_failure(self, reason: str) -> None:
        self._check()
        self.failures.append(reason)

    async def keep_alive(self) -> None:
        self._check()
        self.keep_alives += 1

    async def wait_for_changes(self, within_seconds: float) -> None:
        self._check()
        self.waits += 1
        await self._clock.sleep(within_seconds)

    async def state(self) -> LogState:
        self._check()
        return LogState(self.changes[-1].revision if self.changes else 0, 0)

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        self._check()
        return [change for change in self.changes if change.revision > after][:limit]

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the store is away")
