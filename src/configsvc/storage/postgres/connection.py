"""What the parts of the PostgreSQL adapter do with a connection."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection

from configsvc.storage.sql.reads import Rows
from configsvc.storage.sql.statements import Statement

_logger = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"


async def execute(connection: Connection, statement: Statement) -> psycopg.AsyncCursor[tuple[Any, ...]]:
    """Runs a statement."""
    # As bytes, since the text is not a literal.
    return await connection.execute(statement.sql.replace("?", "%s").encode(), statement.parameters)


async def rows_of(connection: Connection, statement: Statement) -> Rows:
    """Runs a statement; returns its rows."""
    return await (await execute(connection, statement)).fetchall()


@asynccontextmanager
async def rolled_back_on_error(connection: Connection) -> AsyncIterator[None]:
    """A transaction, begun and committed inside, of which nothing is left after an error."""
    try:
        yield
    except Exception:
        if not connection.closed:
            try:
                await connection.rollback()
            except psycopg.Error:
                # The server rolls back by itself what it can't be told to; the first error says more.
                _logger.debug("rollback failed", exc_info=True)
                await connection.close()
        raise
