"""Compacts the change log in the background. Several replicas may do it at the same time."""

import logging
from datetime import timedelta
from types import TracebackType
from typing import Self

from configsvc.app.changelog.log_age import LogAge
from configsvc.clock import Clock
from configsvc.errors import ServiceError
from configsvc.storage.port import Compactor, RetentionPolicy
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)


class Compaction:
    """Deletes changes beyond the newest `keep_changes`, and changes older than `keep_age` (None: of any age).

    - `LogAge` measures the age, so that a clock that jumps deletes nothing.
    - It runs on entering, so that a process that restarts more often than the interval compacts too, and then every
      `interval_seconds`. If it fails, this is logged, and the next run tries again.
    - With `keep_unpublished`, changes that the outbox has not published are kept.
    """

    def __init__(
        self,
        compactor: Compactor,
        clock: Clock,
        *,
        keep_changes: int,
        interval_seconds: float,
        keep_age: timedelta | None = None,
        keep_unpublished: bool = False,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._compactor = compactor
        self._clock = clock
        self._keep_changes = keep_changes
        self._age = None if keep_age is None else LogAge(compactor, clock, keep_age)
        self._interval_seconds = interval_seconds
        self._keep_unpublished = keep_unpublished
        self._task: SupervisedTask | None = None

    async def __aenter__(self) -> Self:
        self._task = self._supervisor.supervise("compaction", self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await self._task.stop()
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                compacted = await self._compactor.compact(await self._policy())
                logger.debug("the log is compacted up to revision %d", compacted)
            except ServiceError:
                logger.exception("the log could not be compacted; the next attempt is in %g s", self._interval_seconds)
            await self._clock.sleep(self._interval_seconds)

    async def _policy(self) -> RetentionPolicy:
        since = None if self._age is None else await self._age.oldest_kept()
        return RetentionPolicy(self._keep_changes, since, self._keep_unpublished)
