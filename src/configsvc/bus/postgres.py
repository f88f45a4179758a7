"""PostgreSQL's notifications as the bus, if there is no Kafka.

The storage notifies `channel` of the new head inside each commit (storage/postgres/storage.py). So `announce` sends
nothing to other replicas: the database has already told every replica that listens on the channel.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection

from configsvc.backoff import Backoff
from configsvc.bus.local import LocalBus
from configsvc.clock import Clock, SystemClock
from configsvc.domain.records import Change
from configsvc.errors import Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 2
# After this long without a notification the connection is tested, so that a server that vanished is noticed.
_QUIET_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0

_SYSTEM_CLOCK = SystemClock()


class PostgresBus:
    """Listens on a connection of its own.

    Entering does not wait for the database. While the database is away, replicas see changes by polling the log.
    """

    name = "postgresql"

    def __init__(
        self, url: str, channel: str, supervisor: Supervisor | None = None, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._clock = clock
        self._url = url
        self._channel = channel
        self._local = LocalBus()
        self._listening = asyncio.Event()
        self._task: SupervisedTask | None = None
        self._problem = "not connected yet"

    def announce(self, changes: Sequence[Change]) -> None:
        """Wakes the subscribers of this process; the commit itself has notified the other replicas."""
        self._local.announce(changes)

    def subscribe(self) -> AsyncIterator[int]:
        return self._local.subscribe()

    async def ping(self) -> None:
        if not self._listening.is_set():
            raise Unavailable(f"PostgreSQL's notifications are not received: {self._problem}", "BUS_UNAVAILABLE")

    async def wait_until_listening(self) -> None:
        """Returns when notifications are received."""
        await self._listening.wait()

    async def __aenter__(self) -> Self:
        await self._local.__aenter__()
        self._task = self._supervisor.supervise("notifications", self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await self._task.stop()
        await self._local.__aexit__(kind, error, trace)

    async def _run(self) -> None:
        backoff = Backoff(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="configsvc listening"
                ) as connection:
                    backoff.reset()
                    await self._listen(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                if self._listening.is_set():
                    logger.warning("PostgreSQL's notifications are not received; the log is polled: %s", error)
                self._problem = str(error) or type(error).__name__
                self._listening.clear()
            await self._clock.sleep(backoff.next())

    async def _listen(self, connection: AsyncConnection[tuple[Any, ...]]) -> None:
        await connection.execute(f"LISTEN {self._channel}")
        # Notifications before LISTEN were missed, so the current head is announced once.
        row = await (await connection.execute("SELECT head FROM configsvc.counter")).fetchone()
        self._local.announce_revision(int(row[0]) if row else 0)
        self._listening.set()
        while True:
            async for notification in connection.notifies(timeout=_QUIET_SECONDS):
                self._local.announce_revision(int(notification.payload))
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.execute("SELECT 1")
