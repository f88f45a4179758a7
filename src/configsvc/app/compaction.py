"""Keeps the change log bounded, in the background. Several replicas may do it at once; nothing depends on who does."""

import asyncio
import logging
from types import TracebackType
from typing import Self

from configsvc.clock import Clock
from configsvc.storage.port import Compactor

logger = logging.getLogger(__name__)


class Compaction:
    """Forgets the oldest changes beyond `keep_changes`, at once on entering and then every `interval_seconds`.

    With `published_only`, what the outbox has not published stays. At once, so that a process which is restarted more often than the interval still compacts. A failure is logged, and
    the next turn tries again.
    """

    def __init__(
        self,
        compactor: Compactor,
        clock: Clock,
        keep_changes: int,
        interval_seconds: float,
        published_only: bool = False,
    ) -> None:
        self._compactor = compactor
        self._clock = clock
        self._keep_changes = keep_changes
        self._interval_seconds = interval_seconds
        self._published_only = published_only
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="compaction")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                compacted = await self._compactor.compact(self._keep_changes, published_only=self._published_only)
                logger.debug("the log is compacted up to revision %d", compacted)
            except Exception:
                logger.exception("the log could not be compacted; next try in %g s", self._interval_seconds)
            await self._clock.sleep(self._interval_seconds)
