"""The outbox lease in PostgreSQL: an advisory lock of a session, on a connection of its own.

A process that waits for the lease is blocked in the server, so it gets the lease as soon as the holder's process ends. The
server ends the session of a holder that hangs: by `idle_session_timeout`, because a holder sends something at least every
second, and by TCP keep-alives if its machine is gone. The next statement on the connection shows that the lease was lost.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection

from configsvc.domain.events import EventLoss
from configsvc.errors import Unavailable
from configsvc.storage.sql.statements import Statement, Statements

# The first seven bytes of SHA-256 of "configsvc outbox".
_LOCK = 0x10_49F9_C64C_59B5

# The server ends the session of a holder that sends nothing for so long.
_MAX_SILENCE_SECONDS = 30
# The holder sends something at least so often.
_KEEP_ALIVE_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_NO_OPERATION = Statement("SELECT 1")

_SETTINGS = (
    "SET statement_timeout = 0; SET lock_timeout = 0;"
    " SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)
# Since PostgreSQL 14.
_IDLE_SESSION_TIMEOUT_VERSION = 140_000


class PostgresOutboxLease:
    """Entering waits for the lease."""

    def __init__(self, url: str, channel: str, statements: Statements) -> None:
        self._url = url
        self._channel = channel
        self._statements = statements
        self._connection: AsyncConnection[tuple[Any, ...]] | None = None

    async def __aenter__(self) -> Self:
        try:
            connection = await AsyncConnection.connect(
                self._url,
                autocommit=True,
                connect_timeout=2,
                application_name="configsvc outbox",
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
            )
        except (psycopg.Error, OSError) as error:
            raise _lost(error) from error
        try:
            await connection.execute(_SETTINGS)
            # Before the lock, so that no commit after it goes unnoticed.
            await connection.execute(f"LISTEN {self._channel}")
            await connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            if connection.info.server_version >= _IDLE_SESSION_TIMEOUT_VERSION:
                await connection.execute(f"SET idle_session_timeout = '{_MAX_SILENCE_SECONDS}s'")
        except BaseException as error:
            # If the statement still waits in the server, closing the connection ends it.
            await connection.close()
            if isinstance(error, psycopg.Error | OSError):
                raise _lost(error) from error
            raise
        self._connection = connection
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def published(self) -> int:
        rows = await self._run(self._statements.published())
        return int(rows[0][0])

    async def advance(self, revision: int, losses: Sequence[EventLoss] = ()) -> None:
        await self._run(self._statements.advance(revision, losses))

    async def report_failure(self, reason: str) -> None:
        await self._run(self._statements.report_failure(reason))

    async def keep_alive(self) -> None:
        await self._run(_NO_OPERATION)

    async def wait_for_changes(self, within_seconds: float) -> None:
        connection = self._held_connection()
        try:
            async for _ in connection.notifies(timeout=min(within_seconds, _KEEP_ALIVE_SECONDS), stop_after=1):
                return
        except (psycopg.Error, OSError) as error:
            raise _lost(error) from error
        await self.keep_alive()

    async def _run(self, statement: Statement) -> list[tuple[Any, ...]]:
        connection = self._held_connection()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                cursor = await connection.execute(statement.sql.replace("?", "%s"), statement.parameters)
                return await cursor.fetchall() if cursor.description else []
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise _lost(error) from error

    def _held_connection(self) -> AsyncConnection[tuple[Any, ...]]:
        if self._connection is None:
            raise Unavailable("the outbox lease was released", "TURN_LOST")
        return self._connection


def _lost(cause: BaseException) -> Unavailable:
    return Unavailable(f"the database can't be used: {cause}", "TURN_LOST")
