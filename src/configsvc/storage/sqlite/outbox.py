"""The outbox lease in the embedded database. One process owns the file, so only its own tasks compete for the lease."""

import asyncio
import contextlib
from collections.abc import Sequence

from configsvc.domain.events import EventLoss
from configsvc.storage.sqlite.threads import SqliteThreads


class SqliteOutboxLease:
    """Held while its task holds the storage's lock. `log_grew` is set after each write."""

    def __init__(self, threads: SqliteThreads, log_grew: asyncio.Event) -> None:
        self._threads = threads
        self._log_grew = log_grew

    async def published(self) -> int:
        return await self._threads.write(lambda writer: writer.published())

    async def advance(self, revision: int, losses: Sequence[EventLoss] = ()) -> None:
        await self._threads.write(lambda writer: writer.advance(revision, losses))

    async def report_failure(self, reason: str) -> None:
        await self._threads.write(lambda writer: writer.report_failure(reason))

    async def keep_alive(self) -> None:
        """Does nothing: the lease can't be lost while this process lives."""

    async def wait_for_changes(self, within_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._log_grew.wait()
        self._log_grew.clear()
