"""PostgreSQL's own notifications as the bus, where there is no Kafka: each commit says the new head in its transaction.

So there is nothing to announce: the database has, to whoever listens on `CHANNEL`, on a connection of its own.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection

from configsvc.bus.local import LocalBus
from configsvc.domain.records import Change
from configsvc.errors import Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# See storage/postgres/storage.py, which notifies it.
CHANNEL = "configsvc_changes"

_CONNECT_SECONDS = 2
# A quiet connection is asked for a sign of life this often: a peer that has vanished without a word is noticed.
_QUIET_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0


class NotifyBus:
    """See `port.Bus`. Entering does not wait for the database; while it is away the readers' poll goes on alone."""

    name = "postgresql"

    def __init__(self, url: str, supervisor: Supervisor | None = None) -> None:
        self._supervisor = supervisor or Supervisor()
        self._url = url
        self._heard = LocalBus()
        self._listening = asyncio.Event()
        self._task: SupervisedTask | None = None
        self._problem = "not connected yet"

    def announce(self, changes: Sequence[Change]) -> None:
        """Tells this process at once; the others were told by the commit itself."""
        self._heard.announce(changes)

    def reached(self) -> AsyncIterator[int]:
        """See the port."""
        return self._heard.reached()

    async def ping(self) -> None:
        """See the port."""
        if not self._listening.is_set():
            raise Unavailable(f"PostgreSQL's notifications are not heard: {self._problem}", "BUS_UNAVAILABLE")

    async def listening(self) -> None:
        """Returns when notifications are heard."""
        await self._listening.wait()

    async def __aenter__(self) -> Self:
        await self._heard.__aenter__()
        self._task = self._supervisor.supervise("notifications", self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await self._task.stop()
        await self._heard.__aexit__(kind, error, trace)

    async def _run(self) -> None:
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="configsvc listening"
                ) as connection:
                    pause = _SHORTEST_PAUSE_SECONDS
                    await self._listen(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                if self._listening.is_set():
                    logger.warning("PostgreSQL's notifications are not heard; the poll goes on alone: %s", error)
                self._problem = str(error) or type(error).__name__
                self._listening.clear()
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _listen(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        await connection.execute(f"LISTEN {CHANNEL}")
        # What was said while nobody listened: those who follow are told the head once.
        found = await (await connection.execute("SELECT head FROM configsvc.counter")).fetchone()
        self._heard.tell(int(found[0]) if found else 0)
        self._listening.set()
        while True:
            async for notification in connection.notifies(timeout=_QUIET_SECONDS):
                self._heard.tell(int(notification.payload))
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.execute("SELECT 1")
