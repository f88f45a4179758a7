"""Changes the log's history while the counter row is locked, so that no other process writes.

Each function is one transaction, on a connection without an open one.
"""

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.storage.postgres.connection import BEGIN, CHANNEL, Connection, execute, rolled_back_on_error, rows_of
from configsvc.storage.sql.statements import Statements


async def new_history_if_diverged(
    connection: Connection, statements: Statements, seen: Checkpoint, reason: str
) -> LogState:
    """See `port.ResumableLog`."""
    async with rolled_back_on_error(connection):
        state, stored_digest = await _lock(connection, statements, seen.revision)
        if state.continues(seen, stored_digest):
            await connection.execute("ROLLBACK")
            return state
        return await _change_history(connection, statements, state, state.with_new_history(seen.revision), reason)


async def new_history(connection: Connection, statements: Statements, reason: str, leap: int) -> LogState:
    """See `port.HistoryAdmin`."""
    async with rolled_back_on_error(connection):
        state, _ = await _lock(connection, statements, 0)
        return await _change_history(connection, statements, state, state.with_new_history(leap=leap), reason)


async def _lock(connection: Connection, statements: Statements, revision: int) -> tuple[LogState, str]:
    """Begins, locks the counter row, and returns the state and the digest at a revision."""
    await connection.execute(BEGIN)
    ((*values, digest),) = await rows_of(connection, statements.state_and_digest(revision, " FOR UPDATE"))
    return LogState(*values), digest or ""


async def _change_history(
    connection: Connection, statements: Statements, before: LogState, after: LogState, reason: str
) -> LogState:
    for statement in statements.change_history(before, after, reason):
        await execute(connection, statement)
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(after.head)))
    await connection.execute("COMMIT")
    return after
