"""One writing transaction: commits a group of writes, or compacts a batch of the log."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors as failures

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import NotReadError, Read, Write
from configsvc.errors import ResourceExhausted
from configsvc.storage.postgres.connection import BEGIN, CHANNEL, Connection, execute, rolled_back_on_error, rows_of
from configsvc.storage.postgres.dialect import DIALECT
from configsvc.storage.sql.compaction import CompactionTarget
from configsvc.storage.sql.group_commit import Outcome
from configsvc.storage.sql.group_state import (
    DECIDE_ATTEMPTS,
    GroupState,
    PlannedWrite,
    asks_for_ever,
    reading_more,
    reads_of,
    request_ids_of,
)
from configsvc.storage.sql.reads import log_diverged, requests_in, rows_in
from configsvc.storage.sql.rows import CHANGE_COLUMNS, RECORD_COLUMNS
from configsvc.storage.sql.statements import Statements

# Changes deleted in one transaction. It takes some 10 ms, in which writes wait.
COMPACTION_CHANGES = 2_000


class RefusedValuesError(Exception):
    """The server refused the values of one of the writes. The whole transaction was rolled back."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Transaction:
    """Runs once, on a connection without an open transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._statements = Statements(DIALECT)
        # Whether the server has got anything that it could still commit.
        self.has_stored = False

    async def commit(self, writes: Sequence[Write], seen: Checkpoint) -> tuple[Sequence[Outcome], Checkpoint]:
        """Commits all writes together; returns an outcome for each, and where the log ends.

        Raises:
            Unavailable: the log does not continue `seen` (reason `LOG_DIVERGED`).
            RefusedValuesError: see there.
        """
        async with rolled_back_on_error(self._connection):
            state = await self._begin(writes, seen)
            results = [await self._plan(state, write) for write in writes]
            planned = [result for result in results if isinstance(result, PlannedWrite)]
            try:
                await self._store([one for one in planned if one.changes or one.request], state.digest)
            except (psycopg.DataError, UnicodeEncodeError, failures.ProgramLimitExceeded) as error:
                raise RefusedValuesError(_refusal(error)) from error
        outcomes = [
            Outcome(result.commit) if isinstance(result, PlannedWrite) else Outcome(error=result) for result in results
        ]
        return outcomes, state.end

    async def compact_batch(self, target: CompactionTarget) -> bool:
        """Deletes one batch of the changes up to the target; False if there is nothing left to delete."""
        async with rolled_back_on_error(self._connection):
            await self._connection.execute(BEGIN)
            await self._connection.execute(_LOCK)
            found = await rows_of(self._connection, self._statements.compaction_step(target, COMPACTION_CHANGES))
            for revision in found:
                await self._connection.execute("DELETE FROM configsvc.changes WHERE revision <= %s", revision)
                await self._connection.execute("DELETE FROM configsvc.requests WHERE revision <= %s", revision)
                await self._connection.execute("UPDATE configsvc.counter SET compacted = %s", revision)
            await self._connection.execute("COMMIT")
            return bool(found)

    async def _begin(self, writes: Sequence[Write], seen: Checkpoint) -> GroupState:
        """Begins, locks, and then loads what the writes read, in one round trip."""
        reads, request_ids = reads_of(writes), request_ids_of(writes)
        async with self._connection.pipeline():
            await self._connection.execute(BEGIN)
            counter = await execute(self._connection, self._statements.state_and_digest(seen.revision, " FOR UPDATE"))
            # In READ COMMITTED each statement takes its own snapshot when it starts, which is after the lock.
            records = [await execute(self._connection, statement) for statement in self._statements.reads(reads)]
            requests = None
            if request_ids:
                requests = await execute(self._connection, self._statements.requests(request_ids))
        ((*values, stored_digest),) = await counter.fetchall()
        log_state = LogState(*values)
        if not log_state.continues(seen, stored_digest or ""):
            raise log_diverged(seen)
        state = GroupState(log_state)
        state.add_rows(reads, [row for cursor in records for row in rows_in(await cursor.fetchall())])
        if requests:
            state.add_requests(requests_in(await requests.fetchall()))
        return state

    async def _plan(self, state: GroupState, write: Write) -> PlannedWrite | BaseException:
        for _ in range(DECIDE_ATTEMPTS):
            try:
                planned = state.plan(write)
            except NotReadError as needed:
                await self._load(state, needed.reads)
                write = reading_more(write, needed)
            except BaseException as error:
                # Any error, even a bug in one `decide`, is the outcome of this write alone.
                return error
            else:
                state.apply(planned)
                return planned
        return asks_for_ever(write)

    async def _load(self, state: GroupState, reads: Sequence[Read]) -> None:
        """Loads what a decision asked for, in one round trip."""
        statements = self._statements.reads(reads)
        try:
            async with self._connection.pipeline():
                cursors = [await execute(self._connection, statement) for statement in statements]
        except (psycopg.DataError, UnicodeEncodeError) as error:
            raise RefusedValuesError(error) from error
        state.add_rows(reads, [row for cursor in cursors for row in rows_in(await cursor.fetchall())])

    async def _store(self, writes: Sequence[PlannedWrite], digest: str) -> None:
        """Stores, notifies and commits, in one round trip."""
        if not writes:
            await self._connection.execute("ROLLBACK")
            return
        changes = [values for write in writes for values in write.changes]
        requests = [write.request for write in writes if write.request]
        # One statement can't update a row twice: of a record that several writes change, store only the last state.
        records = {row.ref: row.values for write in writes for row in write.records}
        self.has_stored = True
        async with self._connection.pipeline():
            if changes:
                head = changes[-1][0]
                await self._connection.execute(_INSERT_CHANGES, _as_arrays(changes))
                await self._connection.execute(_UPSERT_RECORDS, _as_arrays(list(records.values())))
                await self._connection.execute("UPDATE configsvc.counter SET head = %s, digest = %s", (head, digest))
                await self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(head)))
            if requests:
                await self._connection.execute(_INSERT_REQUESTS, _as_arrays(requests))
            await self._connection.execute("COMMIT")


_LOCK = "SELECT head FROM configsvc.counter FOR UPDATE"

_TYPES = {
    "version": "integer", "ordinal": "integer", "revision": "bigint", "before_revision": "bigint",
    "created_at": "bigint", "updated_at": "bigint", "at": "bigint",
}  # fmt: skip


def _insert(table: str, columns: Sequence[str]) -> str:
    """Inserts any number of rows with one statement, whose parameters are one array a column."""
    arrays = ", ".join(f"%s::{_TYPES.get(column, 'text')}[]" for column in columns)
    return f"INSERT INTO configsvc.{table} ({', '.join(columns)}) SELECT * FROM unnest({arrays})"


_INSERT_CHANGES = _insert("changes", CHANGE_COLUMNS)
_INSERT_REQUESTS = _insert("requests", ("request_id", "fingerprint", "revision"))
_UPSERT_RECORDS = (
    f"{_insert('records', RECORD_COLUMNS)} ON CONFLICT (kind, environment, key, service) DO UPDATE SET"
    " version = excluded.version, revision = excluded.revision, body = excluded.body,"
    " created_at = excluded.created_at, updated_at = excluded.updated_at, updated_by = excluded.updated_by"
)


def _as_arrays(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _refusal(error: Exception) -> Exception:
    if isinstance(error, failures.ProgramLimitExceeded):
        refusal = ResourceExhausted("a name is too long for the database's index", "TEXT_TOO_LONG")
        refusal.__cause__ = error
        return refusal
    return error
