"""SQLite in one file: the embedded database, for one process.

- One connection writes, in a thread of its own; a few others read, in theirs. Readers never wait for the writer (WAL),
  and see one snapshot each.
- `synchronous=FULL`: a commit is flushed before it is acknowledged, so neither `kill -9` nor a power cut takes it back.
- Where the disk is full, writes are refused with reason `STORAGE_FULL` and nothing of them is left; reads go on.
- One process owns the file (`sqlite_file`): two would hold caches and leases that know nothing of each other. If it is
  removed or replaced under the process, writes are refused with reason `STORAGE_GONE`; reads go on.
- Each row carries a checksum, and the whole file is checked when it is opened and in the background
  (`sqlite_damage`). A damaged row is never served. Once damage is known, writes are refused with `STORAGE_DAMAGED`, and
  where the structure is damaged, not finding a record is `DataLoss`, too.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import Any, Self

from configsvc.domain.events import EventLoss
from configsvc.domain.instances import Incarnation
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint, LogState
from configsvc.domain.records import Change, Commit, Ref, View, Write
from configsvc.errors import DataLoss, Unavailable
from configsvc.storage.port import (
    READ_BYTES,
    ChangePage,
    ChangeQuery,
    Heartbeat,
    LogPage,
    OutboxLease,
    RecordPage,
    RecordQuery,
    RetentionPolicy,
    VersionRange,
)
from configsvc.storage.sql.group_commit import DEFAULT_GROUP_WRITES, DEFAULT_QUEUE_WRITES, GroupCommit, Outcome
from configsvc.storage.sql.reads import Reads, Rows, T
from configsvc.storage.sql.rows import verified_change, verified_record
from configsvc.storage.sql.statements import Statement
from configsvc.storage.sqlite.connection import DIALECT, check_structure, connect, migrate, translated
from configsvc.storage.sqlite.damage import Damage
from configsvc.storage.sqlite.file_lock import OwnedFile, owned
from configsvc.storage.sqlite.writer import SqliteWriter
from configsvc.tasks import Supervisor

# Reads are short and mostly from memory; more threads than this would only compete for the interpreter.
_READERS = 4

# After a burst the log is cut back to this, so that it does not keep its greatest size for ever.
_WAL_BYTES_KEPT = 64 << 20

# Up to this size the file is checked whole before it is used, indexes against tables, in about half a second. A larger one
# is checked without that (`quick_check`), some 2 s a gigabyte, and whole in the background.
_CHECKED_WHOLE_BYTES = 64 << 20
# Steps of SQLite's machine between two looks whether a check should end.
_CHECK_STEPS = 100_000

_TABLES: dict[str, tuple[tuple[str, ...], Callable[[Sequence[Any]], object]]] = {
    "records": (DIALECT.record_columns, verified_record),
    "changes": (DIALECT.change_columns, verified_change),
}


class SqliteStorage(Reads):
    """`Storage` in a SQLite file, which is made where it is missing, but not its directory.

    Entering raises, besides what the port says, `Unavailable` with reason `STORAGE_IN_USE` where another process (or
    another storage in this one) owns the file, and `FailedPrecondition` with `STORAGE_SCHEMA_NEWER`.
    """

    name = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        readers: int = _READERS,
        queue_writes: int = DEFAULT_QUEUE_WRITES,
        group_writes: int = DEFAULT_GROUP_WRITES,
        supervisor: Supervisor | None = None,
    ) -> None:
        super().__init__(DIALECT)
        self._path = path
        self._readers = readers
        self._group = GroupCommit(
            self._commit_group, queue_writes=queue_writes, group_writes=group_writes, supervisor=supervisor
        )
        self._opened: _Opened | None = None
        self._damage = Damage(path)
        self._turns = asyncio.Lock()
        self._grown = asyncio.Event()
        self._stack = AsyncExitStack()

    async def write(self, write: Write) -> Commit:
        """See the port. Raises also `ResourceExhausted` with reason `WRITE_QUEUE_FULL`."""
        return await self._group.write(write)

    async def compact(self, policy: RetentionPolicy) -> int:
        """See the port."""
        while await self._in_writer(lambda writer: writer.compact_batch(policy)):
            pass
        return (await self.state()).compacted

    @asynccontextmanager
    async def outbox_lease(self) -> AsyncIterator[OutboxLease]:
        """See the port. One process owns the file, so its callers take turns among themselves."""
        async with self._turns:
            yield _OutboxLease(self)

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        """See the port."""
        return await self._in_writer(
            lambda writer: writer.with_heartbeats(lambda heartbeats: heartbeats.advance_lease_clock(clock_seconds))
        )

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        """See the port."""
        await self._in_writer(
            lambda writer: writer.with_heartbeats(lambda heartbeats: heartbeats.record_heartbeats(seen))
        )

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        """See the port."""
        await self._in_writer(
            lambda writer: writer.with_heartbeats(
                lambda heartbeats: heartbeats.grant_leases(incarnations, clock_seconds)
            )
        )

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        """See the port."""
        return await self._in_writer(
            lambda writer: writer.with_heartbeats(lambda heartbeats: heartbeats.heartbeats(incarnations))
        )

    async def forget_heartbeats(self, before: float) -> None:
        """See the port."""
        await self._in_writer(
            lambda writer: writer.with_heartbeats(lambda heartbeats: heartbeats.forget_heartbeats(before))
        )

    async def get(self, refs: Sequence[Ref]) -> View:
        """See the port."""
        view = await super().get(refs)
        if len(view.records) < len(set(refs)):
            self._damage.check_structure()
        return view

    async def page(self, query: RecordQuery) -> RecordPage:
        """See the port."""
        self._damage.check_structure()
        return await super().page(query)

    async def version(self, ref: Ref, version: int) -> Change | None:
        """See the port."""
        self._damage.check_structure()
        return await super().version(ref, version)

    async def versions(self, ref: Ref) -> VersionRange | None:
        """See the port."""
        self._damage.check_structure()
        return await super().versions(ref)

    async def search(self, query: ChangeQuery) -> ChangePage:
        """See the port."""
        self._damage.check_structure()
        return await super().search(query)

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        """See the port."""
        self._damage.check_structure()
        return await super().read(after, limit, max_bytes)

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        """See the port."""
        self._damage.check_structure()
        return await super().resume(seen, limit, max_bytes)

    async def check_file(self) -> None:
        """Returns if the file is where it was opened; raises `Unavailable` (`STORAGE_GONE`) if it is not."""
        await self._in_reader(lambda opened, _: opened.file.check())

    async def check_structure(self) -> None:
        """SQLite's own check of the whole file; notes what is damaged."""

        def check(opened: _Opened, connection: sqlite3.Connection) -> None:
            connection.set_progress_handler(lambda: self._opened is None, _CHECK_STEPS)
            try:
                check_structure(connection, "integrity_check", self._damage)
            finally:
                connection.set_progress_handler(None, 0)

        await self._in_reader(check)

    async def check_rows(self, table: str, after: int, limit: int) -> int | None:
        """Verifies the checksums of so many rows after a row id, and notes the damaged ones.

        Returns the last row's id, or None if there are no more.
        """
        columns, verify = _TABLES[table]
        sql = f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?"

        def check(_: _Opened, connection: sqlite3.Connection) -> int | None:
            rows = connection.execute(sql, (after, limit)).fetchall()
            for _, *values in rows:
                with contextlib.suppress(DataLoss), self._noting():
                    verify(values)
            return rows[-1][0] if len(rows) == limit else None

        try:
            return await self._in_reader(check)
        except DataLoss:
            # A page that can't be read: noted. What lies behind it can't be found from here.
            return None

    async def ping(self) -> None:
        """See the port. After a refused write it is down until there is room for all that may come."""
        await super().ping()
        await self.check_file()
        self._damage.check()
        if self._opened is not None and self._opened.writer.is_refused:
            await self._in_writer(lambda writer: writer.try_one())

    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        def read(_: _Opened, connection: sqlite3.Connection) -> T:
            if statement.walk is not None:
                return decode(statement.walk.rows(connection, statement.sql, statement.parameters))
            return decode(connection.execute(statement.sql, statement.parameters).fetchall())

        return await self._in_reader(read)

    async def _in_reader(self, work: Callable[["_Opened", sqlite3.Connection], T]) -> T:
        opened = self._opened
        if opened is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")

        def run() -> T:
            # There are as many connections as threads.
            connection = opened.connections.get_nowait()
            try:
                with self._noting(), translated():
                    return work(opened, connection)
            finally:
                opened.connections.put_nowait(connection)

        return await asyncio.get_running_loop().run_in_executor(opened.readers, run)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Notes the damage that a statement meets."""
        try:
            yield
        except DataLoss as error:
            self._damage.note(error.message, structural=isinstance(error.__cause__, sqlite3.Error))
            raise

    async def _in_writer(self, work: Callable[[SqliteWriter], T]) -> T:
        opened = self._opened
        if opened is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")

        def run() -> T:
            with self._noting():
                return work(opened.writer)

        return await asyncio.get_running_loop().run_in_executor(opened.thread, run)

    async def _commit_group(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        seen = self._seen
        outcomes, end = await self._in_writer(lambda writer: writer.commit(writes, seen))
        self._see(end)
        self._grown.set()
        return outcomes

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        """See the port."""
        return self._turned(await self._in_writer(lambda writer: writer.new_history_if_diverged(seen, reason)))

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
            file, connection, connections = await opening
            self._opened = _Opened(
                file, thread, SqliteWriter(connection, self._path, file, self._damage), readers, connections
            )
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

    def _open_files(self, files: ExitStack) -> tuple[OwnedFile, sqlite3.Connection, LifoQueue[sqlite3.Connection]]:
        """The file, the writing connection, with the schema up to date, and the reading ones; `files` closes them."""
        with translated(self._path):
            file = files.enter_context(owned(self._path))
            writer = files.enter_context(closing(connect(self._path, "rwc")))
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_KEPT}")
            migrate(writer)
            file.remember_log()
            is_small = self._path.stat().st_size <= _CHECKED_WHOLE_BYTES
            check_structure(writer, "integrity_check" if is_small else "quick_check", self._damage)
            readers: LifoQueue[sqlite3.Connection] = LifoQueue(self._readers)
            for _ in range(self._readers):
                readers.put_nowait(files.enter_context(closing(connect(self._path, "ro"))))
            return file, writer, readers


class _OutboxLease:
    """See `port.OutboxLease`."""

    def __init__(self, storage: SqliteStorage) -> None:
        self._storage = storage

    async def published(self) -> int:
        return await self._storage._in_writer(lambda writer: writer.published())

    async def advance(self, revision: int, losses: Sequence[EventLoss] = ()) -> None:
        await self._storage._in_writer(lambda writer: writer.advance(revision, losses))

    async def report_failure(self, reason: str) -> None:
        await self._storage._in_writer(lambda writer: writer.report_failure(reason))

    async def keep_alive(self) -> None:
        """The turn is this process's as long as it lives."""

    async def wait_for_changes(self, within_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._storage._grown.wait()
        self._storage._grown.clear()


@dataclass(frozen=True, slots=True)
class _Opened:
    file: OwnedFile
    thread: ThreadPoolExecutor
    writer: SqliteWriter
    readers: ThreadPoolExecutor
    connections: LifoQueue[sqlite3.Connection]
