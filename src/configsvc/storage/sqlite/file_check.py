"""Checks the embedded database's file in the background: that it is still there, and that nothing of it is damaged.

What is found is kept by the storage, which tells it in its `ping`, and so in health.
"""

import asyncio
import logging
from types import TracebackType
from typing import Protocol, Self

from configsvc.clock import Clock
from configsvc.errors import Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Between two looks whether the file is still there, and between two checks of all of it.
WATCH_SECONDS, CHECK_SECONDS = 5.0, 3_600.0
# Rows verified at a time, some 3 ms of one core, and the pause after them: at most 10,000 rows a second.
ROWS, PAUSE_SECONDS = 500, 0.05


class CheckedFile(Protocol):
    """What is asked of the storage."""

    async def check_file(self) -> None:
        """Returns if the file is where it was opened; raises `Unavailable` if it was removed or replaced."""
        ...

    async def check_structure(self) -> None:
        """Checks the whole file, and notes what is damaged."""
        ...

    async def check_rows(self, table: str, after: int, limit: int) -> int | None:
        """Verifies so many rows after a row id, and notes the damaged ones; returns the last id, None at the end."""
        ...


class FileCheck:
    """Checks while its context is open."""

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
            after = await self._file.check_rows(table, after, ROWS)
            await self._clock.sleep(PAUSE_SECONDS)
