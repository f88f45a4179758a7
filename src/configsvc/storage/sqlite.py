"""SQLite: the embedded storage, one file and one process.

WAL, so that readers and the writer do not wait for each other; `synchronous=FULL`, so that a commit is on the disk when
it returns. One thread writes, group by group; a few connections read, each statement one consistent view. A lock file
keeps a second process out: two group commits on one file would not see each other's lock order.
"""

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from configsvc.domain.records import Commit, Ref, Write
from configsvc.errors import StateForbids, Unavailable
from configsvc.storage.group_commit import GroupCommit, Outcome
from configsvc.storage.ledger import Entry, Ledger, UnknownRefs, needs_of
from configsvc.storage.migrations import migrations_of, missing_from
from configsvc.storage.reads import Reads, Rows, requests_in, rows_in
from configsvc.storage.rows import CHANGE_COLUMNS, RECORD_COLUMNS, ref_values
from configsvc.storage.statements import Dialect, Statement

T = TypeVar("T")

# Reads are short; more connections than cores would only wait for the interpreter's lock.
READERS = 3
# How long SQLite itself waits for a lock before it gives up. Nobody else should hold one: a checkpoint at most.
BUSY_MILLISECONDS = 5_000
# Changes forgotten in one transaction, so that no write waits long behind a compaction.
COMPACTION_STEP_CHANGES = 5_000

DIALECT = Dialect(
    tables="",
    among="{} IN (SELECT value FROM json_each(?))",
    contains="instr({}, ?) > 0",
    refs=(
        "(SELECT json_extract(value, '$[0]') AS kind, json_extract(value, '$[1]') AS environment,"
        " json_extract(value, '$[2]') AS service, json_extract(value, '$[3]') AS key FROM json_each(?))"
    ),
    many=lambda texts: json.dumps(list(texts)),
    many_refs=lambda refs: (json.dumps([ref_values(ref) for ref in dict.fromkeys(refs)]),),
)

_PUT_RECORD = (
    f"INSERT INTO records ({', '.join(RECORD_COLUMNS)}) VALUES ({', '.join('?' * len(RECORD_COLUMNS))})"
    " ON CONFLICT (kind, environment, key, service) DO UPDATE SET version = excluded.version,"
    " revision = excluded.revision, body = excluded.body, created_at = excluded.created_at,"
    " updated_at = excluded.updated_at, updated_by = excluded.updated_by"
)
_ADD_CHANGE = f"INSERT INTO changes ({', '.join(CHANGE_COLUMNS)}) VALUES ({', '.join('?' * len(CHANGE_COLUMNS))})"


class SqliteStorage(Reads):
    """The port on one file. See `port.Storage` for the law."""

    name = "sqlite"

    def __init__(self, path: str | Path, *, readers: int = READERS) -> None:
        super().__init__(DIALECT)
        self._path = Path(path)
        self._readers = readers
        self._stack = AsyncExitStack()
        self._group = GroupCommit(self._commit_group)
        self._writing: ThreadPoolExecutor | None = None
        self._reading: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []

    async def __aenter__(self) -> Self:
        """Opens the file, alone, and brings its schema up to date.

        Raises:
            StateForbids: another process has the file (reason `STORAGE_IN_USE`), or a newer release wrote it.
            Unavailable: the file can't be opened or written.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(_locked(self._path))
            self._writing = stack.enter_context(ThreadPoolExecutor(1, "sqlite-writer"))
            self._reading = stack.enter_context(ThreadPoolExecutor(self._readers, "sqlite-reader"))
            self._connection = await self._in_writer(self._open)
            stack.callback(self._connection.close)
            self._idle = [self._connect() for _ in range(self._readers)]
            for connection in self._idle:
                stack.callback(connection.close)
                connection.execute("PRAGMA query_only = 1")
            await stack.enter_async_context(self._group)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self._writing = self._reading = self._connection = None

    async def write(self, write: Write) -> Commit:
        """See the port. Also raises `TooMuch` where too many writes wait."""
        return await self._group.write(write)

    async def compact(self, keep_changes: int) -> int:
        """See the port."""
        while await self._in_writer(lambda: self._compact_step(keep_changes)):
            # Between two steps waiting writes have their turn.
            await asyncio.sleep(0)
        return (await self.state()).compacted

    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        def run() -> T:
            # As many connections as threads: there is always one.
            connection = self._idle.pop()
            try:
                return decode(connection.execute(statement.sql, statement.parameters).fetchall())
            finally:
                self._idle.append(connection)

        if self._reading is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")
        return await _translated(asyncio.get_running_loop().run_in_executor(self._reading, run))

    async def _in_writer(self, run: Callable[[], T]) -> T:
        if self._writing is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")
        return await _translated(asyncio.get_running_loop().run_in_executor(self._writing, run))

    async def _commit_group(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        return await self._in_writer(lambda: self._commit(writes))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (applied,) = connection.execute("PRAGMA user_version").fetchone()
        for step in missing_from(migrations_of("sqlite"), applied):
            connection.executescript(f"BEGIN IMMEDIATE; {step.sql}; PRAGMA user_version = {step.number}; COMMIT;")
        return connection

    def _commit(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        """One transaction for all, a savepoint for each. What this raises is the outcome of all: none has happened."""
        connection = self._writer
        with _transaction(connection):
            before = connection.execute("SELECT head FROM counter").fetchone()[0]
            ledger = Ledger(before)
            needs = needs_of(writes)
            self._learn(ledger, needs.refs)
            for scope in needs.scopes:
                ledger.learn((), rows_in(self._all(self._statements.scope(scope))))
            if needs.request_ids:
                ledger.remember(requests_in(self._all(self._statements.requests(needs.request_ids))))
            outcomes = [self._one(ledger, write) for write in writes]
            if ledger.head > before:
                connection.execute("UPDATE counter SET head = ?", (ledger.head,))
        return outcomes

    def _one(self, ledger: Ledger, write: Write) -> Outcome:
        """One write's outcome. Errors of the database itself are the whole group's."""
        try:
            entry = self._judged(ledger, write)
        except sqlite3.Error:
            raise
        except Exception as error:
            return Outcome(error=error)
        connection = self._writer
        connection.execute("SAVEPOINT one")
        try:
            connection.executemany(_PUT_RECORD, [row.values for row in entry.records])
            connection.executemany(_ADD_CHANGE, entry.changes)
            if entry.request:
                connection.execute("INSERT INTO requests VALUES (?, ?, ?)", entry.request)
        except (sqlite3.IntegrityError, UnicodeEncodeError) as error:
            # What this one write holds can't be stored; the others are not touched by it.
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            return Outcome(error=error)
        connection.execute("RELEASE one")
        ledger.accept(entry)
        return Outcome(commit=entry.commit)

    def _judged(self, ledger: Ledger, write: Write) -> Entry:
        try:
            return ledger.judge(write)
        except UnknownRefs as unknown:
            self._learn(ledger, unknown.refs)
            return ledger.judge(write)

    def _learn(self, ledger: Ledger, refs: Sequence[Ref]) -> None:
        if refs:
            ledger.learn(refs, rows_in(self._all(self._statements.records(refs))))

    def _all(self, statement: Statement) -> list[Any]:
        return self._writer.execute(statement.sql, statement.parameters).fetchall()

    def _compact_step(self, keep_changes: int) -> bool:
        """Forgets some; returns whether there was anything to forget."""
        connection = self._writer
        with _transaction(connection):
            found = self._all(self._statements.compaction(keep_changes, COMPACTION_STEP_CHANGES))
            if not found or found[0][0] is None:
                return False
            (revision,) = found[0]
            connection.execute("DELETE FROM changes WHERE revision <= ?", (revision,))
            connection.execute("DELETE FROM requests WHERE revision <= ?", (revision,))
            connection.execute("UPDATE counter SET compacted = ?", (revision,))
        return True

    @property
    def _writer(self) -> sqlite3.Connection:
        assert self._connection is not None, "opened before it is used"
        return self._connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits at the end; on an error nothing has happened."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors, a full disk among them, have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the file for this process alone. The kernel lets go when the process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{path} can't be opened: {error.strerror}", "STORAGE_UNAVAILABLE") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateForbids(f"another process uses {path}", "STORAGE_IN_USE", {"path": str(path)}) from error
    try:
        yield
    finally:
        os.close(lock)


async def _translated(running: "asyncio.Future[T]") -> T:
    try:
        return await running
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        raise Unavailable(f"SQLite can't do this now: {error}", "STORAGE_UNAVAILABLE") from error
