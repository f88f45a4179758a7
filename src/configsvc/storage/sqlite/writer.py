"""The connection that writes to the embedded database."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configsvc.domain.events import EventLoss
from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import NotReadError, Read, Write
from configsvc.errors import DataLoss, Unavailable
from configsvc.storage.sql.checksums import checksum
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
from configsvc.storage.sql.known_rows import KnownRows
from configsvc.storage.sql.reads import Rows, T, copy_of, log_diverged, requests_in, rows_in
from configsvc.storage.sql.statements import Statement, Statements
from configsvc.storage.sqlite.connection import DIALECT, translated
from configsvc.storage.sqlite.damage import KnownDamage
from configsvc.storage.sqlite.disk_space import ENOUGH_BYTES, is_disk_full
from configsvc.storage.sqlite.file_lock import LockedFile
from configsvc.storage.sqlite.heartbeats import SqliteHeartbeats

# Changes deleted in one transaction. It takes some 10 ms, in which writes wait.
COMPACTION_CHANGES = 2_000

_INSERT_CHANGE = (
    f"INSERT INTO changes ({', '.join(DIALECT.change_columns)}) VALUES ({', '.join('?' * len(DIALECT.change_columns))})"
)
_UPSERT_RECORD = (
    f"INSERT INTO records ({', '.join(DIALECT.record_columns)})"
    f" VALUES ({', '.join('?' * len(DIALECT.record_columns))})"
    " ON CONFLICT (kind, environment, key, service) DO UPDATE SET version = excluded.version,"
    " revision = excluded.revision, body = excluded.body, created_at = excluded.created_at,"
    " updated_at = excluded.updated_at, updated_by = excluded.updated_by, checksum = excluded.checksum"
)
_INSERT_REQUEST = "INSERT INTO requests VALUES (?, ?, ?)"


class SqliteWriter:
    """Used by one thread only."""

    def __init__(self, connection: sqlite3.Connection, path: Path, file: LockedFile, damage: KnownDamage) -> None:
        self._connection = connection
        self._path = path
        self._file = file
        self._damage = damage
        self._statements = Statements(DIALECT)
        self._known = KnownRows()
        self._heartbeats = SqliteHeartbeats(connection)
        # Whether the database has refused a write, and `try_write` has not succeeded since.
        self.refuses_writes = False

    def try_write(self) -> None:
        """Finds out whether the database accepts writes again, by one that changes nothing: there may be no other.

        Such a write is small, and failed writes may have left a little space in the write-ahead log. So the disk is
        checked first.
        """
        self._file.check()
        if is_disk_full(self._path, ENOUGH_BYTES):
            raise Unavailable("the database's disk is full", "STORAGE_FULL")
        with translated(self._path), self._transaction():
            self._connection.execute("UPDATE outbox SET published = published")
        self.refuses_writes = False

    def commit(self, writes: Sequence[Write], seen: Checkpoint) -> tuple[Sequence[Outcome], Checkpoint]:
        """Commits all writes together; returns an outcome for each, and where the log ends."""
        try:
            self._file.check()
            self._damage.raise_if_any()
            with translated(self._path), self._transaction():
                log_state, stored_digest = self._state(seen.revision)
                if not log_state.continues(seen, stored_digest):
                    raise log_diverged(seen)
                state = GroupState(log_state)
                self._known.forget_unless_at(log_state.end)
                self._load(state, writes)
                outcomes = [self._apply(state, write) for write in writes]
                if state.head > log_state.head:
                    self._connection.execute("UPDATE counter SET head = ?, digest = ?", (state.head, state.digest))
            self._file.check()
            self._known.committed(log_state.end, state)
        except Unavailable as error:
            self.refuses_writes = error.reason != "LOG_DIVERGED"
            return [Outcome(error=copy_of(error)) for _ in writes], seen
        except DataLoss as error:
            self._damage.add(error.message, structural=isinstance(error.__cause__, sqlite3.Error))
            return [Outcome(error=copy_of(error)) for _ in writes], seen
        return outcomes, state.end

    def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        """See `port.ResumableLog`."""
        with translated(self._path), self._transaction():
            state, stored_digest = self._state(seen.revision)
            if state.continues(seen, stored_digest):
                return state
            return self._change_history(state, state.with_new_history(seen.revision), reason)

    def new_history(self, reason: str, leap: int) -> LogState:
        """See `port.HistoryAdmin`."""
        with translated(self._path), self._transaction():
            state, _ = self._state(0)
            return self._change_history(state, state.with_new_history(leap=leap), reason)

    def with_heartbeats(self, work: Callable[[SqliteHeartbeats], T]) -> T:
        """Reads or writes heartbeats."""
        self._file.check()
        with translated(self._path):
            return work(self._heartbeats)

    def published(self) -> int:
        """See `port.OutboxLease`."""
        with translated():
            ((revision,),) = self._rows(self._statements.published())
            return int(revision)

    def advance(self, revision: int, losses: Sequence[EventLoss]) -> None:
        """See `port.OutboxLease`."""
        self._run(self._statements.advance(revision, losses))

    def report_failure(self, reason: str) -> None:
        """See `port.OutboxLease`."""
        self._run(self._statements.report_failure(reason))

    def compact_batch(self, target: CompactionTarget) -> bool:
        """Deletes one batch of the changes up to the target; False if there is nothing left to delete."""
        with translated(), self._transaction():
            found = self._rows(self._statements.compaction_step(target, COMPACTION_CHANGES))
            for (revision,) in found:
                self._connection.execute("DELETE FROM changes WHERE revision <= ?", (revision,))
                self._connection.execute("DELETE FROM requests WHERE revision <= ?", (revision,))
                self._connection.execute("UPDATE counter SET compacted = ?", (revision,))
            return bool(found)

    def _change_history(self, before: LogState, after: LogState, reason: str) -> LogState:
        for statement in self._statements.change_history(before, after, reason):
            self._rows(statement)
        return after

    def _state(self, revision: int) -> tuple[LogState, str]:
        """The log's state, and its digest at a revision."""
        ((*values, digest),) = self._rows(self._statements.state_and_digest(revision))
        return LogState(*values), digest or ""

    def _load(self, state: GroupState, writes: Sequence[Write]) -> None:
        self._load_reads(state, reads_of(writes))
        if request_ids := request_ids_of(writes):
            state.add_requests(requests_in(self._rows(self._statements.requests(request_ids))))

    def _load_reads(self, state: GroupState, reads: Sequence[Read]) -> None:
        unknown = self._known.add_known(state, reads)
        statements = self._statements.reads(unknown)
        state.add_rows(unknown, [row for statement in statements for row in rows_in(self._rows(statement))])

    def _apply(self, state: GroupState, write: Write) -> Outcome:
        try:
            planned = self._plan(state, write)
            self._store(planned)
        except BaseException as error:
            if isinstance(error, DataLoss) or (isinstance(error, sqlite3.Error) and not _is_of_one_write(error)):
                # The error of the database, found while it loaded what a decision asked for, or stored the write.
                raise
            # Any other error, even a bug in one `decide`, is the outcome of this write alone.
            return Outcome(error=error)
        state.apply(planned)
        return Outcome(planned.commit)

    def _plan(self, state: GroupState, write: Write) -> PlannedWrite:
        for _ in range(DECIDE_ATTEMPTS):
            try:
                return state.plan(write)
            except NotReadError as needed:
                self._load_reads(state, needed.reads)
                write = reading_more(write, needed)
        raise asks_for_ever(write)

    def _store(self, planned: PlannedWrite) -> None:
        if not planned.changes and not planned.request:
            return
        execute = self._connection.execute
        execute("SAVEPOINT one_write")
        try:
            self._connection.executemany(_INSERT_CHANGE, map(_with_checksum, planned.changes))
            self._connection.executemany(_UPSERT_RECORD, (_with_checksum(row.values) for row in planned.records))
            if planned.request:
                execute(_INSERT_REQUEST, planned.request)
        except BaseException:
            # If the disk is full or broken, SQLite itself has rolled back the whole transaction.
            if self._connection.in_transaction:
                execute("ROLLBACK TO one_write")
                execute("RELEASE one_write")
            raise
        execute("RELEASE one_write")

    def _run(self, statement: Statement) -> None:
        with translated(self._path), self._transaction():
            self._connection.execute(statement.sql, statement.parameters)

    def _rows(self, statement: Statement) -> Rows:
        return self._connection.execute(statement.sql, statement.parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _with_checksum(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*values, checksum(*values))


def _is_of_one_write(error: sqlite3.Error) -> bool:
    """Whether the values of one write caused the error, and not the database."""
    return isinstance(
        error, sqlite3.DataError | sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.ProgrammingError
    )
