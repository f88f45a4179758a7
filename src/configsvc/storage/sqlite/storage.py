"""SQLite in one file: the embedded database, for one process.

- `synchronous=FULL`: a commit is flushed before it is acknowledged, so neither `kill -9` nor a power cut loses it.
- If the disk is full, a write is refused with reason `STORAGE_FULL` and has no effect; reads go on.
- One process owns the file (`file_lock`): two would have caches and leases that know nothing of each other. If the file
  is removed or replaced, writes are refused with reason `STORAGE_GONE`; reads go on.
- Each row has a checksum, and the whole file is checked when it is opened and in the background (`file_check`). A damaged
  row is never served. Once damage is known, writes are refused with reason `STORAGE_DAMAGED`. If the structure is
  damaged, a read that finds no record raises `DataLoss`, too.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from configsvc.domain.instances import Incarnation
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint, LogState
from configsvc.domain.records import Change, Commit, Ref, View, Write
from configsvc.errors import DataLoss
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
from configsvc.storage.sql.group_commit import DEFAULT_GROUP_WRITES, GroupCommit, Outcome
from configsvc.storage.sql.reads import Rows, SqlReads, T
from configsvc.storage.sql.rows import verified_change, verified_record
from configsvc.storage.sql.statements import Statement
from configsvc.storage.sqlite.connection import DIALECT, check_structure
from configsvc.storage.sqlite.damage import KnownDamage
from configsvc.storage.sqlite.heartbeats import SqliteHeartbeats
from configsvc.storage.sqlite.outbox import SqliteOutboxLease
from configsvc.storage.sqlite.threads import SqliteThreads
from configsvc.tasks import Supervisor

# Instructions of SQLite's virtual machine between two tests whether a check should end.
_CHECK_INSTRUCTIONS = 100_000

_TABLES: dict[str, tuple[tuple[str, ...], Callable[[Sequence[Any]], object]]] = {
    "records": (DIALECT.record_columns, verified_record),
    "changes": (DIALECT.change_columns, verified_change),
}


class SqliteStorage(SqlReads):
    """`Storage` in a SQLite file, which is created if it is missing, with its directory.

    Entering the context raises, in addition to the port's errors, `Unavailable` with reason `STORAGE_IN_USE` if another
    process (or another storage in this process) owns the file, and `FailedPrecondition` with `STORAGE_SCHEMA_NEWER`.
    """

    name = "sqlite"

    def __init__(
        self, path: Path, *, group_writes: int = DEFAULT_GROUP_WRITES, supervisor: Supervisor | None = None
    ) -> None:
        super().__init__(DIALECT)
        self._damage = KnownDamage(path)
        self._threads = SqliteThreads(path, self._damage)
        self._group = GroupCommit(self._commit_group, group_writes=group_writes, supervisor=supervisor)
        self._outbox_lock = asyncio.Lock()
        self._log_grew = asyncio.Event()
        self._stack = AsyncExitStack()

    async def write(self, write: Write) -> Commit:
        """Also raises `ResourceExhausted` with reason `WRITE_QUEUE_FULL`."""
        return await self._group.write(write)

    async def compact(self, policy: RetentionPolicy) -> int:
        target = await self._compaction_target(policy)
        while await self._threads.write(lambda writer: writer.compact_batch(target)):
            pass
        return (await self.state()).compacted

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        return self._history_checked(
            await self._threads.write(lambda writer: writer.new_history_if_diverged(seen, reason))
        )

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        return self._history_checked(await self._threads.write(lambda writer: writer.new_history(reason, leap)))

    @asynccontextmanager
    async def outbox_lease(self) -> AsyncIterator[OutboxLease]:
        async with self._outbox_lock:
            yield SqliteOutboxLease(self._threads, self._log_grew)

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        return await self._with_heartbeats(lambda heartbeats: heartbeats.advance_lease_clock(clock_seconds))

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        await self._with_heartbeats(lambda heartbeats: heartbeats.record_heartbeats(seen))

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        await self._with_heartbeats(lambda heartbeats: heartbeats.grant_leases(incarnations, clock_seconds))

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        return await self._with_heartbeats(lambda heartbeats: heartbeats.heartbeats(incarnations))

    async def forget_heartbeats(self, before: float) -> None:
        await self._with_heartbeats(lambda heartbeats: heartbeats.forget_heartbeats(before))

    async def get(self, refs: Sequence[Ref]) -> View:
        view = await super().get(refs)
        if len(view.records) < len(set(refs)):
            self._damage.raise_if_structural()
        return view

    async def page(self, query: RecordQuery) -> RecordPage:
        self._damage.raise_if_structural()
        return await super().page(query)

    async def version(self, ref: Ref, version: int) -> Change | None:
        self._damage.raise_if_structural()
        return await super().version(ref, version)

    async def versions(self, ref: Ref) -> VersionRange | None:
        self._damage.raise_if_structural()
        return await super().versions(ref)

    async def search(self, query: ChangeQuery) -> ChangePage:
        self._damage.raise_if_structural()
        return await super().search(query)

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        self._damage.raise_if_structural()
        return await super().read(after, limit, max_bytes)

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        self._damage.raise_if_structural()
        return await super().resume(seen, limit, max_bytes)

    async def check_file(self) -> None:
        """See `file_check.CheckedFile`."""
        await self._threads.check_file()

    async def check_structure(self) -> None:
        """Runs SQLite's own check of the whole file, and stores the damage."""

        def check(connection: sqlite3.Connection) -> None:
            connection.set_progress_handler(lambda: not self._threads.is_open, _CHECK_INSTRUCTIONS)
            try:
                check_structure(connection, "integrity_check", self._damage)
            finally:
                connection.set_progress_handler(None, 0)

        await self._threads.read(check)

    async def check_rows(self, table: str, after: int, limit: int) -> int | None:
        """Verifies the checksums of up to `limit` rows after a row id, and stores the damage.

        Returns the last row's id, or None if there are no more.
        """
        columns, verify = _TABLES[table]
        sql = f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?"

        def check(connection: sqlite3.Connection) -> int | None:
            rows = connection.execute(sql, (after, limit)).fetchall()
            for _, *values in rows:
                with contextlib.suppress(DataLoss), self._damage.added():
                    verify(values)
            return rows[-1][0] if len(rows) == limit else None

        try:
            return await self._threads.read(check)
        except DataLoss:
            # A page can't be read. The rows after it can't be reached from here.
            return None

    async def ping(self) -> None:
        """After a refused write, this also fails until the disk has space for any write."""
        await super().ping()
        await self.check_file()
        self._damage.raise_if_any()
        if self._threads.refuses_writes:
            await self._threads.write(lambda writer: writer.try_write())

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._threads)
            await stack.enter_async_context(self._group)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        def read(connection: sqlite3.Connection) -> T:
            if statement.row_by_row is not None:
                return decode(statement.row_by_row.rows(connection, statement.sql, statement.parameters))
            return decode(connection.execute(statement.sql, statement.parameters).fetchall())

        return await self._threads.read(read)

    async def _with_heartbeats(self, work: Callable[[SqliteHeartbeats], T]) -> T:
        return await self._threads.write(lambda writer: writer.with_heartbeats(work))

    async def _commit_group(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        seen = self._seen
        outcomes, end = await self._threads.write(lambda writer: writer.commit(writes, seen))
        self._advance_seen(end)
        self._log_grew.set()
        return outcomes

    def _history_checked(self, state: LogState) -> LogState:
        self._advance_seen(state.end)
        self._log_grew.set()
        return state
