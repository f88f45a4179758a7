"""The one connection that writes to the embedded database."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configsvc.domain.events import EventLoss
from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import Ref, Write
from configsvc.errors import DataLoss, Unavailable
from configsvc.storage.port import RetentionPolicy
from configsvc.storage.sql.checksums import checksum
from configsvc.storage.sql.group_commit import Outcome
from configsvc.storage.sql.ledger import Entry, Ledger, UnknownRefsError, needs_of
from configsvc.storage.sql.reads import Rows, T, again, diverged, requests_in, rows_in
from configsvc.storage.sql.statements import Statement, Statements
from configsvc.storage.sqlite.connection import DIALECT, translated
from configsvc.storage.sqlite.damage import Damage
from configsvc.storage.sqlite.disk_space import ENOUGH_BYTES, is_disk_full
from configsvc.storage.sqlite.file_lock import OwnedFile
from configsvc.storage.sqlite.heartbeats import SqliteHeartbeats

# Changes forgotten in one transaction: some 10 ms, in which writes wait.
_COMPACTION_CHANGES = 2_000


class SqliteWriter:
    """All of it runs in one thread."""

    _INSERT_CHANGE = (
        f"INSERT INTO changes ({', '.join(DIALECT.change_columns)})"
        f" VALUES ({', '.join('?' * len(DIALECT.change_columns))})"
    )
    _UPSERT_RECORD = (
        f"INSERT INTO records ({', '.join(DIALECT.record_columns)})"
        f" VALUES ({', '.join('?' * len(DIALECT.record_columns))})"
        " ON CONFLICT (kind, environment, key, service) DO UPDATE SET version = excluded.version,"
        " revision = excluded.revision, body = excluded.body, created_at = excluded.created_at,"
        " updated_at = excluded.updated_at, updated_by = excluded.updated_by, checksum = excluded.checksum"
    )
    _INSERT_REQUEST = "INSERT INTO requests VALUES (?, ?, ?)"

    def __init__(self, connection: sqlite3.Connection, path: Path, file: OwnedFile, damage: Damage) -> None:
        self._connection = connection
        self._path = path
        self._file = file
        self._damage = damage
        self._statements = Statements(DIALECT)
        self._heartbeats = SqliteHeartbeats(connection)
        # Whether the database has refused writes, and nothing has shown since that it would take them now.
        self.is_refused = False

    def try_one(self) -> None:
        """Shows whether it would, by a write that changes nothing: there may be no other.

        It is small, and the failed ones have left a little room in the log; so the disk is asked first.
        """
        self._file.check()
        if is_disk_full(self._path, ENOUGH_BYTES):
            raise Unavailable("there is no room for the database on its disk", "STORAGE_FULL")
        with translated(self._path), self._transaction():
            self._connection.execute("UPDATE outbox SET published = published")
        self.is_refused = False

    def commit(self, writes: Sequence[Write], seen: Checkpoint) -> tuple[Sequence[Outcome], Checkpoint]:
        """One transaction for all of them; an outcome for each, and where the log ends."""
        try:
            self._file.check()
            self._damage.check()
            with translated(self._path), self._transaction():
                state, there = self._state(seen.revision)
                if not state.continues(seen, there):
                    raise diverged(seen)
                ledger = Ledger(state)
                self._load(ledger, writes)
                outcomes = [self._apply(ledger, write) for write in writes]
                if ledger.head > state.head:
                    self._connection.execute("UPDATE counter SET head = ?, digest = ?", (ledger.head, ledger.digest))
            self._file.check()
        except Unavailable as error:
            self.is_refused = error.reason != "LOG_DIVERGED"
            return [Outcome(error=again(error)) for _ in writes], seen
        except DataLoss as error:
            self._damage.note(error.message, structural=isinstance(error.__cause__, sqlite3.Error))
            return [Outcome(error=again(error)) for _ in writes], seen
        return outcomes, ledger.end

    def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        """See `port.ResumableLog`."""
        with translated(self._path), self._transaction():
            state, there = self._state(seen.revision)
            return (
                state
                if state.continues(seen, there)
                else self._turn(state, state.with_new_history(seen.revision), reason)
            )

    def new_history(self, reason: str, leap: int) -> LogState:
        """See `port.HistoryAdmin`."""
        with translated(self._path), self._transaction():
            state, _ = self._state(0)
            return self._turn(state, state.with_new_history(leap=leap), reason)

    def with_heartbeats(self, work: Callable[[SqliteHeartbeats], T]) -> T:
        """Reads or writes signs of life. See `port.Heartbeats`."""
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

    def _run(self, statement: Statement) -> None:
        with translated(self._path), self._transaction():
            self._connection.execute(statement.sql, statement.parameters)

    def compact_batch(self, keep: RetentionPolicy) -> bool:
        """Forgets some of what `compact` shall forget; False where there is nothing left to forget."""
        with translated(), self._transaction():
            found = self._rows(self._statements.compaction(keep, _COMPACTION_CHANGES))
            for (revision,) in found:
                self._connection.execute("DELETE FROM changes WHERE revision <= ?", (revision,))
                self._connection.execute("DELETE FROM requests WHERE revision <= ?", (revision,))
                self._connection.execute("UPDATE counter SET compacted = ?", (revision,))
            return bool(found)

    def _turn(self, before: LogState, after: LogState, reason: str) -> LogState:
        for statement in self._statements.turn(before, after, reason):
            self._rows(statement)
        return after

    def _state(self, revision: int) -> tuple[LogState, str]:
        """The log's state, and its digest at a revision."""
        ((*values, there),) = self._rows(self._statements.state_and_digest(revision))
        return LogState(*values), there or ""

    def _load(self, ledger: Ledger, writes: Sequence[Write]) -> None:
        needs = needs_of(writes)
        self._learn(ledger, needs.refs)
        for scope in needs.scopes:
            ledger.learn((), rows_in(self._rows(self._statements.scope(scope))))
        if needs.request_ids:
            ledger.remember(requests_in(self._rows(self._statements.requests(needs.request_ids))))

    def _learn(self, ledger: Ledger, refs: Sequence[Ref]) -> None:
        if refs:
            ledger.learn(refs, rows_in(self._rows(self._statements.records(refs))))

    def _apply(self, ledger: Ledger, write: Write) -> Outcome:
        try:
            entry = self._judge(ledger, write)
            self._store(entry)
        except BaseException as error:
            if isinstance(error, sqlite3.Error) and not _is_of_one_write(error):
                raise
            # Whatever it is, a bug in one `decide` included, it is this write's alone.
            return Outcome(error=error)
        ledger.accept(entry)
        return Outcome(entry.commit)

    def _judge(self, ledger: Ledger, write: Write) -> Entry:
        while True:
            try:
                return ledger.judge(write)
            except UnknownRefsError as unknown:
                self._learn(ledger, unknown.refs)

    def _store(self, entry: Entry) -> None:
        if not entry.changes and not entry.request:
            return
        execute = self._connection.execute
        execute("SAVEPOINT one_write")
        try:
            self._connection.executemany(self._INSERT_CHANGE, map(_checked, entry.changes))
            self._connection.executemany(self._UPSERT_RECORD, (_checked(row.values) for row in entry.records))
            if entry.request:
                execute(self._INSERT_REQUEST, entry.request)
        except BaseException:
            # SQLite itself rolls all of it back where the disk is full or broken.
            if self._connection.in_transaction:
                execute("ROLLBACK TO one_write")
                execute("RELEASE one_write")
            raise
        execute("RELEASE one_write")

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


def _checked(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row with its checksum."""
    return (*values, checksum(*values))


def _is_of_one_write(error: sqlite3.Error) -> bool:
    """Whether the values of one write are to blame, and not the database."""
    return isinstance(
        error, sqlite3.DataError | sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.ProgrammingError
    )
