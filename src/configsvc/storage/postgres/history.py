"""The log's identity in PostgreSQL: a history is given while the counter row is locked, so that nobody writes.

Each function is one transaction on a connection that has none open.
"""

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.storage.postgres.connection import BEGIN, Connection, execute, rolled_back_on_error, rows_of
from configsvc.storage.sql.statements import Statements


async def new_history_if_diverged(
    connection: Connection, statements: Statements, channel: str, seen: Checkpoint, reason: str
) -> LogState:
    """See `port.ResumableLog`."""
    async with rolled_back_on_error(connection):
        state, there = await _locked(connection, statements, seen.revision)
        if state.continues(seen, there):
            await connection.execute("ROLLBACK")
            return state
        return await _turn(connection, statements, channel, state, state.with_new_history(seen.revision), reason)


async def new_history(connection: Connection, statements: Statements, channel: str, reason: str, leap: int) -> LogState:
    """See `port.ResumableLog`."""
    async with rolled_back_on_error(connection):
        state, _ = await _locked(connection, statements, 0)
        return await _turn(connection, statements, channel, state, state.with_new_history(leap=leap), reason)


async def _locked(connection: Connection, statements: Statements, revision: int) -> tuple[LogState, str]:
    await connection.execute(BEGIN)
    ((*values, there),) = await rows_of(connection, statements.state_and_digest(revision, " FOR UPDATE"))
    return LogState(*values), there or ""


async def _turn(
    connection: Connection, statements: Statements, channel: str, before: LogState, after: LogState, reason: str
) -> LogState:
    for statement in statements.turn(before, after, reason):
        await execute(connection, statement)
    await connection.execute("SELECT pg_notify(%s, %s)", (channel, str(after.head)))
    await connection.execute("COMMIT")
    return after
