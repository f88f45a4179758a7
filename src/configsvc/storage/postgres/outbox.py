"""The turn to publish the log, in PostgreSQL: a session's advisory lock on a connection of its own.

Whoever waits is blocked in the server, so that the next has the turn at once when a holder's process ends. A holder that
has hung is cut off by the server: by `idle_session_timeout`, since a turn says something at least every second, and by
TCP keep-alives where its machine is gone. A turn that was lost shows itself at the next statement on its connection.
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

# What a hung holder costs: the server ends its session, and the next has the turn.
_SILENCE_SECONDS = 30
_TALK_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_NOTHING = Statement("SELECT 1")

_SETTINGS = (
    "SET statement_timeout = 0; SET lock_timeout = 0;"
    " SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)
# Since PostgreSQL 14.
_IDLE_SESSION_TIMEOUT_VERSION = 140_000


class PostgresOutboxLease:
    """See `port.OutboxLease`. Entering waits for the turn."""

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
            # First, so that no commit after the turn began goes unheard.
            await connection.execute(f"LISTEN {self._channel}")
            await connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            if connection.info.server_version >= _IDLE_SESSION_TIMEOUT_VERSION:
                await connection.execute(f"SET idle_session_timeout = '{_SILENCE_SECONDS}s'")
        except BaseException as error:
            # Closed, not returned: whatever still waits in the server ends with its session.
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
        """See the port."""
        rows = await self._run(self._statements.published())
        return int(rows[0][0])

    async def advance(self, revision: int, losses: Sequence[EventLoss] = ()) -> None:
        """See the port."""
        await self._run(self._statements.advance(revision, losses))

    async def report_failure(self, reason: str) -> None:
        """See the port."""
        await self._run(self._statements.report_failure(reason))

    async def keep_alive(self) -> None:
        """See the port."""
        await self._run(_NOTHING)

    async def wait_for_changes(self, within_seconds: float) -> None:
        """See the port."""
        connection = self._held()
        try:
            async for _ in connection.notifies(timeout=min(within_seconds, _TALK_SECONDS), stop_after=1):
                return
        except (psycopg.Error, OSError) as error:
            raise _lost(error) from error
        await self.keep_alive()

    async def _run(self, statement: Statement) -> list[tuple[Any, ...]]:
        connection = self._held()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                cursor = await connection.execute(statement.sql.replace("?", "%s"), statement.parameters)
                return await cursor.fetchall() if cursor.description else []
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise _lost(error) from error

    def _held(self) -> AsyncConnection[tuple[Any, ...]]:
        if self._connection is None:
            raise Unavailable("the turn to publish is over", "TURN_LOST")
        return self._connection


def _lost(cause: BaseException) -> Unavailable:
    return Unavailable(f"the database can't be used: {cause}", "TURN_LOST")
