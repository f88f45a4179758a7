"""Checks the embedded database's file in the background: that it was not removed, and that nothing in it is damaged.

The storage keeps the damage that is found, and its `ping` reports it to health.
"""

import asyncio
import logging
from types import TracebackType
from typing import Protocol, Self

from configsvc.clock import Clock
from configsvc.errors import Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Between two checks that the file was not removed, and between two checks of its whole content.
WATCH_SECONDS, CHECK_SECONDS = 5.0, 3_600.0
# Rows verified at a time, some 3 ms of one core, and the pause after them: at most 10,000 rows a second.
BATCH_ROWS, PAUSE_SECONDS = 500, 0.05


class CheckedFile(Protocol):
    """What the checks need of the storage."""

    async def check_file(self) -> None:
        """Returns if the file is where it was opened; raises `Unavailable` if it was removed or replaced."""
        ...

    async def check_structure(self) -> None:
        """Checks the whole file, and stores the damage."""
        ...

    async def check_rows(self, table: str, after: int, limit: int) -> int | None:
        """Verifies up to `limit` rows after a row id, and stores the damage; returns the last id, None at the end."""
        ...


class FileCheck:
    """Runs the checks while its context is open."""

    def __init__(self, file: CheckedFile, clock: Clock, supervisor: Supervisor | None = None) -> None:
        self._file = file
        self._clock = clock
        self._supervisor = supervisor or Supervisor(clock)
        self._tasks: list[SupervisedTask] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            self._supervisor.supervise("watch of the database file", self._watch),
            self._supervisor.supervise("check of the database file", self._check),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(task.stop() for task in self._tasks))

    async def _watch(self) -> None:
        known = ""
        while True:
            await self._clock.sleep(WATCH_SECONDS)
            problem = ""
            try:
                await self._file.check_file()
            except Unavailable as error:
                problem = str(error)
            if problem != known:
                logger.error("%s", problem or "the database's file is back; writes are accepted again")
            known = problem

    async def _check(self) -> None:
        while True:
            for table in ("records", "changes"):
                await self._verify(table)
            await self._clock.sleep(CHECK_SECONDS)
            await self._file.check_structure()

    async def _verify(self, table: str) -> None:
        after: int | None = 0
        while after is not None:
            after = await self._file.check_rows(table, after, BATCH_ROWS)
            await self._clock.sleep(PAUSE_SECONDS)
