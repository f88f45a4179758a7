"""SQLite in one file: the embedded database, for one process.

- One connection writes, in a thread of its own; a few others read, in theirs. Readers never wait for the writer (WAL),
  and see one snapshot each.
- `synchronous=FULL`: a commit is flushed before it is acknowledged, so neither `kill -9` nor a power cut takes it back.
- Where the disk is full, writes are refused with reason `STORAGE_FULL` and nothing of them is left; reads go on.
- One process owns the file, by a lock beside it that the system drops when the process ends, however it ends: two
  would hold caches and leases that know nothing of each other.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import Self

from configsvc.domain.lineage import LEAP_REVISIONS, MADE, LogState, Point, new_history
from configsvc.domain.records import Commit, Ref, Write
from configsvc.errors import ServiceError, Unavailable
from configsvc.storage.group_commit import DEFAULT_GROUP_WRITES, DEFAULT_QUEUE_WRITES, GroupCommit, Outcome
from configsvc.storage.ledger import Entry, Ledger, UnknownRefsError, needs_of
from configsvc.storage.migrations import migrations_of, missing_from
from configsvc.storage.port import Keep, Sign, Turn
from configsvc.storage.reads import Reads, Rows, T, again, diverged, requests_in, rows_in
from configsvc.storage.room import ENOUGH_BYTES, lacks_room
from configsvc.storage.rows import CHANGE_COLUMNS, RECORD_COLUMNS, json_text_of, ref_values
from configsvc.storage.statements import Dialect, Statement, Statements

# Only a tool that has opened the file by hand can hold a lock: wait for it as long as a caller would.
_BUSY_SECONDS = 5.0

# Reads are short and mostly from memory; more threads than this would only compete for the interpreter.
_READERS = 4

# After a burst the log is cut back to this, so that it does not keep its greatest size for ever.
_WAL_BYTES_KEPT = 64 << 20

# Changes forgotten in one transaction: some 10 ms, in which writes wait.
_COMPACTION_CHANGES = 2_000

DIALECT = Dialect(
    tables="main.",
    among="{} IN (SELECT value FROM json_each(?))",
    contains="instr({}, ?) > 0",
    refs=(
        "(SELECT json_extract(value, '$[0]') AS kind, json_extract(value, '$[1]') AS environment,"
        " json_extract(value, '$[2]') AS service, json_extract(value, '$[3]') AS key FROM json_each(?))"
    ),
    many=json_text_of,
    many_refs=lambda refs: (json_text_of([ref_values(ref) for ref in refs]),),
    now="CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
)


class SqliteStorage(Reads):
    """`Storage` in a SQLite file, which is made where it is missing, but not its directory.

    Entering raises, besides what the port says, `Unavailable` with reason `STORAGE_IN_USE` where another process (or
    another storage in this one) owns the file, and `StateForbids` with `STORAGE_SCHEMA_NEWER`.
    """

    name = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        readers: int = _READERS,
        queue_writes: int = DEFAULT_QUEUE_WRITES,
        group_writes: int = DEFAULT_GROUP_WRITES,
    ) -> None:
        super().__init__(DIALECT)
        self._path = path
        self._readers = readers
        self._group = GroupCommit(self._commit_group, queue_writes=queue_writes, group_writes=group_writes)
        self._opened: _Opened | None = None
        self._turns = asyncio.Lock()
        self._grown = asyncio.Event()
        self._signs: dict[Ref, float] = {}
        self._stack = AsyncExitStack()

    async def write(self, write: Write) -> Commit:
        """See the port. Raises also `TooMuch` with reason `WRITE_QUEUE_FULL`."""
        return await self._group.write(write)

    async def compact(self, keep: Keep) -> int:
        """See the port."""
        while await self._in_writer(lambda writer: writer.forget_some(keep)):
            pass
        return (await self.state()).compacted

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Turn]:
        """See the port. One process owns the file, so its callers take turns among themselves."""
        async with self._turns:
            yield _Turn(self)

    async def note(self, refs: Collection[Ref]) -> None:
        """See the port."""
        now = time.monotonic()
        self._signs.update(dict.fromkeys(refs, now))

    async def signs(self, refs: Collection[Ref]) -> Mapping[Ref, Sign]:
        """See the port. In memory, as one process alone owns the file, and its leases begin anew with it."""
        now = time.monotonic()
        return {ref: Sign(self._signs[ref], now - self._signs[ref]) for ref in refs if ref in self._signs}

    async def ping(self) -> None:
        """See the port. After a refused write it is down until there is room for all that may come."""
        await super().ping()
        if self._opened is not None and self._opened.writer.is_refused:
            await self._in_writer(lambda writer: writer.try_one())

    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        opened = self._opened
        if opened is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")

        def run() -> T:
            # There are as many connections as threads.
            connection = opened.connections.get_nowait()
            try:
                with translated():
                    rows = connection.execute(statement.sql, statement.parameters).fetchall()
            finally:
                opened.connections.put_nowait(connection)
            return decode(rows)

        return await asyncio.get_running_loop().run_in_executor(opened.readers, run)

    async def _in_writer(self, work: Callable[["_Writer"], T]) -> T:
        opened = self._opened
        if opened is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")
        return await asyncio.get_running_loop().run_in_executor(opened.thread, lambda: work(opened.writer))

    async def _commit_group(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        seen = self._seen
        outcomes, end = await self._in_writer(lambda writer: writer.commit(writes, seen))
        self._see(end)
        self._grown.set()
        return outcomes

    async def reconcile(self, seen: Point, reason: str) -> LogState:
        """See the port."""
        return self._turned(await self._in_writer(lambda writer: writer.reconcile(seen, reason)))

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        """See the port."""
        return self._turned(await self._in_writer(lambda writer: writer.new_history(reason, leap)))

    def _turned(self, state: LogState) -> LogState:
        self._see(state.end)
        self._grown.set()
        return state

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            thread = ThreadPoolExecutor(1, "sqlite-writer")
            stack.callback(thread.shutdown, wait=False)
            readers = ThreadPoolExecutor(self._readers, "sqlite-reader")
            stack.callback(readers.shutdown, wait=False)
            files = ExitStack()
            opening = loop.run_in_executor(thread, self._open_files, files)
            # After the last write, in the thread that used them. Readers that nobody waits for any more come first.
            stack.push_async_callback(lambda: loop.run_in_executor(thread, files.close))
            stack.push_async_callback(lambda: loop.run_in_executor(None, readers.shutdown))
            connection, connections = await opening
            self._opened = _Opened(thread, _Writer(connection, self._path), readers, connections)
            stack.callback(self._forget_opened)
            await stack.enter_async_context(self._group)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _forget_opened(self) -> None:
        self._opened = None

    def _open_files(self, files: ExitStack) -> tuple[sqlite3.Connection, LifoQueue[sqlite3.Connection]]:
        """The writing connection, with the schema up to date, and the reading ones; `files` closes them."""
        with translated(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            files.enter_context(_owned(self._path))
            writer = files.enter_context(closing(_connect(self._path, "rwc")))
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
            _migrate(writer)
            readers: LifoQueue[sqlite3.Connection] = LifoQueue(self._readers)
            for _ in range(self._readers):
                readers.put_nowait(files.enter_context(closing(_connect(self._path, "ro"))))
            return writer, readers


class _Turn:
    """See `port.Turn`."""

    def __init__(self, storage: SqliteStorage) -> None:
        self._storage = storage

    async def published(self) -> int:
        return await self._storage._in_writer(lambda writer: writer.published())

    async def advance(self, revision: int) -> None:
        await self._storage._in_writer(lambda writer: writer.advance(revision))

    async def news(self, within_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._storage._grown.wait()
        self._storage._grown.clear()


class _Writer:
    """The writing connection; all of it runs in the writer's thread."""

    _INSERT_CHANGE = (
        f"INSERT INTO changes ({', '.join(CHANGE_COLUMNS)}) VALUES ({', '.join('?' * len(CHANGE_COLUMNS))})"
    )
    _UPSERT_RECORD = (
        f"INSERT INTO records ({', '.join(RECORD_COLUMNS)}) VALUES ({', '.join('?' * len(RECORD_COLUMNS))})"
        " ON CONFLICT (kind, environment, key, service) DO UPDATE SET version = excluded.version,"
        " revision = excluded.revision, body = excluded.body, created_at = excluded.created_at,"
        " updated_at = excluded.updated_at, updated_by = excluded.updated_by"
    )
    _INSERT_REQUEST = "INSERT INTO requests VALUES (?, ?, ?)"

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._statements = Statements(DIALECT)
        # Whether the database has refused writes, and nothing has shown since that it would take them now.
        self.is_refused = False

    def try_one(self) -> None:
        """Shows whether it would, by a write that changes nothing: there may be no other.

        It is small, and the failed ones have left a little room in the log; so the disk is asked first.
        """
        if lacks_room(self._path, ENOUGH_BYTES):
            raise Unavailable("there is no room for the database on its disk", "STORAGE_FULL")
        with translated(self._path), self._transaction():
            self._connection.execute("UPDATE outbox SET published = published")
        self.is_refused = False

    def commit(self, writes: Sequence[Write], seen: Point) -> tuple[Sequence[Outcome], Point]:
        """One transaction for all of them; an outcome for each, and where the log ends."""
        try:
            with translated(self._path), self._transaction():
                state, there = self._state(seen.revision)
                if not state.continues(seen, there):
                    raise diverged(seen)
                ledger = Ledger(state)
                self._load(ledger, writes)
                outcomes = [self._apply(ledger, write) for write in writes]
                if ledger.head > state.head:
                    self._connection.execute("UPDATE counter SET head = ?, digest = ?", (ledger.head, ledger.digest))
                return outcomes, ledger.end
        except Unavailable as error:
            self.is_refused = error.reason != "LOG_DIVERGED"
            return [Outcome(error=again(error)) for _ in writes], seen

    def reconcile(self, seen: Point, reason: str) -> LogState:
        """See `port.Lineage`."""
        with translated(self._path), self._transaction():
            state, there = self._state(seen.revision)
            return state if state.continues(seen, there) else self._turn(state, state.turned(seen.revision), reason)

    def new_history(self, reason: str, leap: int) -> LogState:
        """See `port.Lineage`."""
        with translated(self._path), self._transaction():
            state, _ = self._state(0)
            return self._turn(state, state.turned(leap=leap), reason)

    def _turn(self, before: LogState, after: LogState, reason: str) -> LogState:
        for statement in self._statements.turn(before, after, reason):
            self._rows(statement)
        return after

    def _state(self, revision: int) -> tuple[LogState, str]:
        """The log's state, and its digest at a revision."""
        ((*values, there),) = self._rows(self._statements.state_and_digest(revision))
        return LogState(*values), there or ""

    def published(self) -> int:
        """See `port.Turn`."""
        with translated():
            ((revision,),) = self._rows(self._statements.published())
            return int(revision)

    def advance(self, revision: int) -> None:
        """See `port.Turn`."""
        with translated(self._path), self._transaction():
            self._connection.execute("UPDATE outbox SET published = ?", (revision,))

    def forget_some(self, keep: Keep) -> bool:
        """Forgets some of what `compact` shall forget; False where there is nothing left to forget."""
        with translated(), self._transaction():
            found = self._rows(self._statements.compaction(keep, _COMPACTION_CHANGES))
            for (revision,) in found:
                self._connection.execute("DELETE FROM changes WHERE revision <= ?", (revision,))
                self._connection.execute("DELETE FROM requests WHERE revision <= ?", (revision,))
                self._connection.execute("UPDATE counter SET compacted = ?", (revision,))
            return bool(found)

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
            self._connection.executemany(self._INSERT_CHANGE, entry.changes)
            self._connection.executemany(self._UPSERT_RECORD, [row.values for row in entry.records])
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


@dataclass(frozen=True, slots=True)
class _Opened:
    thread: ThreadPoolExecutor
    writer: _Writer
    readers: ThreadPoolExecutor
    connections: LifoQueue[sqlite3.Connection]


def unavailable(cause: BaseException, path: Path | None = None) -> Unavailable:
    """The port's error for a driver's one. With the database's path, a lack of room is told whatever it is called."""
    code = getattr(cause, "sqlite_errorcode", 0)
    # The lowest byte is the kind; the others say at which operation.
    is_full = code == sqlite3.SQLITE_FULL or (
        code & 0xFF == sqlite3.SQLITE_IOERR and path is not None and lacks_room(path)
    )
    if is_full:
        return Unavailable(f"there is no room for the database on its disk: {cause}", "STORAGE_FULL")
    return Unavailable(f"the database can't be used: {cause}")


@contextmanager
def translated(path: Path | None = None) -> Iterator[None]:
    """Translates the errors of a database that can't be used; those of a wrong statement are bugs, and stay."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.NotSupportedError):
        raise
    except (sqlite3.Error, OSError) as error:
        raise unavailable(error, path) from error


def _is_of_one_write(error: sqlite3.Error) -> bool:
    """Whether the values of one write are to blame, and not the database."""
    return isinstance(
        error, sqlite3.DataError | sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.ProgrammingError
    )


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        # Transactions are written out.
        isolation_level=None,
        # Each connection is used by one thread at a time; they are all closed by the writer's.
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    ((applied,),) = connection.execute("PRAGMA user_version").fetchall()
    for step in missing_from(migrations_of("sqlite"), applied):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {step.sql}\nPRAGMA user_version = {step.number}; COMMIT;")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    # One process owns the file, so nobody comes between the two.
    for statement in Statements(DIALECT).began(new_history(), MADE):
        connection.execute(statement.sql, statement.parameters)


@contextmanager
def _owned(path: Path) -> Iterator[None]:
    """The right to use the file, until the end of the block or of the process."""
    lock = Path(f"{path}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise _in_use(path, owner) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        # The file stays: removing it would let two processes lock two files of one name.
        yield
    finally:
        os.close(descriptor)


def _in_use(path: Path, owner: str) -> ServiceError:
    return Unavailable(
        f"{path} is in use by process {owner}: one process alone can own an embedded database",
        "STORAGE_IN_USE",
        {"path": str(path), "process": owner},
    )
