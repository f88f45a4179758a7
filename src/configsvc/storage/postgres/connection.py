"""Running statements on a connection, and translating its errors."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection

from configsvc.errors import Unavailable
from configsvc.storage.sql.reads import Rows
from configsvc.storage.sql.statements import Statement

logger = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]

# Each commit notifies this channel of the new head (bus/postgres.py listens).
CHANNEL = "configsvc_changes"

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


async def execute(connection: Connection, statement: Statement) -> psycopg.AsyncCursor[tuple[Any, ...]]:
    """Runs a statement."""
    # As bytes, because psycopg's types accept a str only if it is a literal.
    return await connection.execute(statement.sql.replace("?", "%s").encode(), statement.parameters)


async def rows_of(connection: Connection, statement: Statement) -> Rows:
    """Runs a statement; returns its rows."""
    return await (await execute(connection, statement)).fetchall()


@asynccontextmanager
async def rolled_back_on_error(connection: Connection) -> AsyncIterator[None]:
    """Rolls back the transaction that the block began, if the block raises. The block itself begins and commits."""
    try:
        yield
    except Exception:
        if not connection.closed:
            try:
                await connection.rollback()
            except psycopg.Error:
                # Closing the connection rolls back, too. The first error is the one to report.
                logger.debug("rollback failed", exc_info=True)
                await connection.close()
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Translates the errors of a database that can't be used. Errors of a wrong statement are bugs and pass through.

    The pool raises `OperationalError`, too; a standby server raises `InternalError` for writes.
    """
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, OSError) as error:
        raise Unavailable(f"the database can't be used: {error}") from error
