"""PostgreSQL: the database for several replicas.

- The counter row is locked first in every writing transaction, so commits are in the order of revisions across all
  replicas: the lock is let go only after a commit can be seen. What is loaded after the lock is the state.
- A group of writes is two round trips (pipeline mode): begin, lock, load; then store, notify, commit. Writes are told
  apart in memory, by the ledger. A savepoint each would be needed only where the server refuses the values of one
  write; then the group is rolled back, and each write has a transaction of its own.
- A read is one statement, which in PostgreSQL is one snapshot, at one round trip. For the same promise a REPEATABLE
  READ transaction would take four statements.
- After a lost connection around COMMIT the outcome is unknown, and `Unavailable` says so. A statement of which nobody
  knows whether it will end is left behind after `answer_seconds`, so that a hung server costs a bounded time.
- Each commit notifies channel `configsvc_changes` with the new head, in the transaction.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import errors as failures
from psycopg_pool import AsyncConnectionPool

from configsvc.domain.instances import Incarnation
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint, LogState
from configsvc.domain.records import Commit, Write
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.storage.port import Heartbeat, OutboxLease, RetentionPolicy
from configsvc.storage.postgres.connection import BEGIN, Connection, execute, rolled_back_on_error, rows_of
from configsvc.storage.postgres.heartbeats import PostgresHeartbeats
from configsvc.storage.postgres.history import new_history, new_history_if_diverged
from configsvc.storage.postgres.outbox import PostgresOutboxLease
from configsvc.storage.postgres.schema import migrate
from configsvc.storage.sql.group_commit import DEFAULT_GROUP_WRITES, DEFAULT_QUEUE_WRITES, GroupCommit, Outcome
from configsvc.storage.sql.ledger import Entry, Ledger, UnknownRefsError, needs_of
from configsvc.storage.sql.reads import Reads, Rows, T, again, diverged, requests_in, rows_in
from configsvc.storage.sql.rows import CHANGE_COLUMNS, RECORD_COLUMNS, ref_values
from configsvc.storage.sql.statements import Dialect, Statement, Statements
from configsvc.tasks import Supervisor

# Where each commit says the new head, for those who LISTEN (bus/postgres.py).
CHANNEL = "configsvc_changes"

# Changes forgotten in one transaction: some 10 ms, in which writes wait.
_COMPACTION_CHANGES = 2_000

# Serialization failures and deadlocks can't come from here, since all writers lock the same row first; an
# administrator's own statements can cause them, and then once more is enough.
_ATTEMPTS = 3

# libpq's least; a server that is there answers in milliseconds.
_CONNECT_SECONDS = 2

# The pool's own attempts end after this, and every new demand starts one: a server that is back is found at once. (Its
# back-off would double with each failure, and after a long absence come back late.)
_RECONNECT_SECONDS = 1.0

# Who waits for a connection of the pool; beyond it the server is overloaded, and a quick no is better.
_WAITING_READS = 1_000

_logger = logging.getLogger(__name__)

DIALECT = Dialect(
    tables="configsvc.",
    among="{} = ANY(?::text[])",
    contains="strpos({}, ?) > 0",
    refs=("(SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[]) AS u (kind, environment, service, key))"),
    many=list,
    many_refs=lambda refs: tuple([ref_values(ref)[part] for ref in refs] for part in range(4)),
    now="(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
)


class PostgresStorage(Reads):
    """`Storage` in a PostgreSQL database, in a schema `configsvc` of its own, which is made where it is missing.

    `url` is libpq's (`postgresql://…`). `connections` read, beside one that writes; a call waits `connection_seconds`
    for a free one, and that is how soon `Unavailable` comes where no server listens. A statement may take
    `statement_seconds`, of which `lock_seconds` for a lock; `answer_seconds` bounds the whole call. After a failed
    entering, entering may be tried again.
    """

    name = "postgresql"

    def __init__(
        self,
        url: str,
        *,
        connections: int = 8,
        connection_seconds: float = 2.0,
        statement_seconds: float = 10.0,
        lock_seconds: float = 5.0,
        answer_seconds: float = 12.0,
        queue_writes: int = DEFAULT_QUEUE_WRITES,
        group_writes: int = DEFAULT_GROUP_WRITES,
        supervisor: Supervisor | None = None,
    ) -> None:
        super().__init__(DIALECT)
        self._url = url
        self._connections = connections
        self._connection_seconds = connection_seconds
        self._settings = {
            "statement_timeout": f"{round(statement_seconds * 1000)}ms",
            "lock_timeout": f"{round(lock_seconds * 1000)}ms",
            # A replica that hangs in a transaction would hold the counter's lock for all.
            "idle_in_transaction_session_timeout": f"{round(answer_seconds * 1000)}ms",
        }
        self._answer_seconds = answer_seconds
        self._group = GroupCommit(
            self._commit_group, queue_writes=queue_writes, group_writes=group_writes, supervisor=supervisor
        )
        self._heartbeats = PostgresHeartbeats(self._executed)
        self._reading: AsyncConnectionPool[Connection] | None = None
        self._writing: AsyncConnectionPool[Connection] | None = None
        self._left_behind: set[asyncio.Task[Any]] = set()
        self._stack = AsyncExitStack()

    async def write(self, write: Write) -> Commit:
        """See the port. Raises also `ResourceExhausted` with reason `WRITE_QUEUE_FULL`, or `TEXT_TOO_LONG` for an index."""
        return await self._group.write(write)

    async def compact(self, policy: RetentionPolicy) -> int:
        """See the port."""
        while await self._bounded(self._forget_some(policy)):
            pass
        return (await self.state()).compacted

    @asynccontextmanager
    async def outbox_lease(self) -> AsyncIterator[OutboxLease]:
        """See the port."""
        async with PostgresOutboxLease(self._url, CHANNEL, self._statements) as lease:
            yield lease

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        """See the port."""
        return await self._heartbeats.advance_lease_clock(clock_seconds)

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        """See the port."""
        await self._heartbeats.record_heartbeats(seen)

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        """See the port."""
        await self._heartbeats.grant_leases(incarnations, clock_seconds)

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        """See the port."""
        return await self._heartbeats.heartbeats(incarnations)

    async def forget_heartbeats(self, before: float) -> None:
        """See the port."""
        await self._heartbeats.forget_heartbeats(before)

    async def _executed(self, sql: str, parameters: Sequence[Any]) -> Rows:
        async def run() -> Rows:
            async with self._lent(self._reading) as connection:
                cursor = await connection.execute(sql, parameters)
                return await cursor.fetchall() if cursor.description else ()

        return await self._bounded(run())

    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        async def run() -> Rows:
            # A server that was restarted has left dead connections in the pool: each shows itself once.
            for _ in range(self._connections):
                async with self._lent(self._reading) as connection:
                    try:
                        return await rows_of(connection, statement)
                    except (psycopg.OperationalError, psycopg.InterfaceError):
                        if not connection.closed:
                            raise
            async with self._lent(self._reading) as connection:
                return await rows_of(connection, statement)

        return decode(await self._bounded(run()))

    async def _commit_group(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        try:
            return await self._bounded(self._commit_together(writes))
        except _RefusedValuesError as refused:
            if len(writes) == 1:
                return [Outcome(error=refused.error)]
            return [outcome for write in writes for outcome in await self._commit_group([write])]
        except Unavailable as error:
            # One each: an exception that several callers raise would gather all of their tracebacks.
            return [Outcome(error=again(error)) for _ in writes]

    async def _commit_together(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        for _ in range(_ATTEMPTS - 1):
            async with self._lent(self._writing) as connection:
                transaction = _Transaction(connection)
                try:
                    return await self._committed(transaction, writes)
                except (failures.SerializationFailure, failures.DeadlockDetected):
                    continue
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    # The server was restarted since the connection was last used, and nothing was sent to it.
                    if not connection.closed or transaction.has_stored:
                        raise
        async with self._lent(self._writing) as connection:
            return await self._committed(_Transaction(connection), writes)

    async def _committed(self, transaction: "_Transaction", writes: Sequence[Write]) -> Sequence[Outcome]:
        outcomes, end = await transaction.commit(writes, self._seen)
        self._see(end)
        return outcomes

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        """See the port."""
        return await self._turned(
            lambda writer: new_history_if_diverged(writer, self._statements, CHANNEL, seen, reason)
        )

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        """See the port."""
        return await self._turned(lambda writer: new_history(writer, self._statements, CHANNEL, reason, leap))

    async def _turned(self, work: Callable[[Connection], Awaitable[LogState]]) -> LogState:
        async def run() -> LogState:
            async with self._lent(self._writing) as connection:
                return await work(connection)

        state = await self._bounded(run())
        self._see(state.end)
        return state

    async def _forget_some(self, keep: RetentionPolicy) -> bool:
        async with self._lent(self._writing) as connection:
            return await _Transaction(connection).compact_batch(keep)

    @asynccontextmanager
    async def _lent(self, pool: AsyncConnectionPool[Connection] | None) -> AsyncIterator[Connection]:
        if pool is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")
        async with pool.connection() as connection:
            yield connection

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, within the time that a caller waits; its errors translated.

        A task of its own: psycopg, cancelled, first asks the server to cancel, which takes long where it hangs. Nobody
        waits for that, nor is a statement of a caller that has left cancelled.
        """
        task = asyncio.create_task(work)
        self._left_behind.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=self._answer_seconds)
        if not task.done():
            task.cancel()
            raise Unavailable(f"the database did not answer within {self._answer_seconds} s")
        with _translated():
            return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._left_behind.discard(task)
        # Seen: or the loop would complain of those whose callers have left.
        if not task.cancelled():
            task.exception()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            with _translated():
                await migrate(self._url, _CONNECT_SECONDS, self._statements)
            stack.callback(self._forget_pools)
            self._reading = await self._pool(stack, "reading", self._connections)
            self._writing = await self._pool(stack, "writing", 1)
            stack.push_async_callback(self._finish)
            await stack.enter_async_context(self._group)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _finish(self) -> None:
        """Waits for statements whose callers have left; each is bounded, and without one it waits for nothing."""
        if self._left_behind:
            await asyncio.wait(self._left_behind, timeout=self._answer_seconds)

    def _forget_pools(self) -> None:
        self._reading = self._writing = None

    async def _pool(self, stack: AsyncExitStack, role: str, size: int) -> AsyncConnectionPool[Connection]:
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._url,
            kwargs={"autocommit": True, "connect_timeout": _CONNECT_SECONDS, "application_name": f"configsvc {role}"},
            min_size=1,
            max_size=size,
            open=False,
            configure=self._configure,
            name=f"postgres-{role}",
            timeout=self._connection_seconds,
            max_waiting=_WAITING_READS,
            reconnect_timeout=_RECONNECT_SECONDS,
        )
        await pool.open()
        stack.push_async_callback(pool.close)
        return pool

    async def _configure(self, connection: Connection) -> None:
        for setting, value in self._settings.items():
            await connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        # Acknowledged means flushed, also where the server's default is to be quick; stricter ones stay.
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )


class _RefusedValuesError(Exception):
    """The server refused the values of some write; all was rolled back."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Transaction:
    """One writing transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._statements = Statements(DIALECT)
        # Whether anything was sent that the server could still commit.
        self.has_stored = False

    async def commit(self, writes: Sequence[Write], seen: Checkpoint) -> tuple[Sequence[Outcome], Checkpoint]:
        """One transaction for all of them; an outcome for each, and where the log ends.

        Raises:
            Unavailable: the log is no continuation of `seen`.
        """
        async with rolled_back_on_error(self._connection):
            ledger = await self._begin(writes, seen)
            judged = [await self._judge(ledger, write) for write in writes]
            entries = [entry for entry in judged if isinstance(entry, Entry)]
            try:
                await self._store([entry for entry in entries if entry.changes or entry.request], ledger.digest)
            except (psycopg.DataError, UnicodeEncodeError, failures.ProgramLimitExceeded) as error:
                raise _RefusedValuesError(_refusal(error)) from error
        outcomes = [Outcome(entry.commit) if isinstance(entry, Entry) else Outcome(error=entry) for entry in judged]
        return outcomes, ledger.end

    async def compact_batch(self, keep: RetentionPolicy) -> bool:
        """Forgets some of what `compact` shall forget; False where there is nothing left to forget."""
        async with rolled_back_on_error(self._connection):
            await self._connection.execute(BEGIN)
            await self._connection.execute(_LOCK)
            wanted = self._statements.compaction(keep, _COMPACTION_CHANGES)
            found = await rows_of(self._connection, wanted)
            for revision in found:
                await self._connection.execute("DELETE FROM configsvc.changes WHERE revision <= %s", revision)
                await self._connection.execute("DELETE FROM configsvc.requests WHERE revision <= %s", revision)
                await self._connection.execute("UPDATE configsvc.counter SET compacted = %s", revision)
            await self._connection.execute("COMMIT")
            return bool(found)

    async def _begin(self, writes: Sequence[Write], seen: Checkpoint) -> Ledger:
        """Begins, locks, and then loads what the writes name, in one round trip."""
        needs = needs_of(writes)
        async with self._connection.pipeline():
            await self._connection.execute(BEGIN)
            counter = await execute(self._connection, self._statements.state_and_digest(seen.revision, " FOR UPDATE"))
            # Each statement has a snapshot of its own (READ COMMITTED), taken when its turn comes: after the lock.
            wanted = [self._statements.scope(scope) for scope in needs.scopes]
            if needs.refs:
                wanted.append(self._statements.records(needs.refs))
            records = [await execute(self._connection, statement) for statement in wanted]
            requests = None
            if needs.request_ids:
                requests = await execute(self._connection, self._statements.requests(needs.request_ids))
        ((*values, there),) = await counter.fetchall()
        state = LogState(*values)
        if not state.continues(seen, there or ""):
            raise diverged(seen)
        ledger = Ledger(state)
        ledger.learn(needs.refs, [row for cursor in records for row in rows_in(await cursor.fetchall())])
        if requests:
            ledger.remember(requests_in(await requests.fetchall()))
        return ledger

    async def _judge(self, ledger: Ledger, write: Write) -> Entry | BaseException:
        while True:
            try:
                entry = ledger.judge(write)
            except UnknownRefsError as unknown:
                rows = await rows_of(self._connection, self._statements.records(unknown.refs))
                ledger.learn(unknown.refs, rows_in(rows))
            except BaseException as error:
                # Whatever it is, a bug in one `decide` included, it is this write's alone.
                return error
            else:
                ledger.accept(entry)
                return entry

    async def _store(self, entries: Sequence[Entry], digest: str) -> None:
        """Stores, notifies and commits, in one round trip."""
        if not entries:
            await self._connection.execute("ROLLBACK")
            return
        changes = [values for entry in entries for values in entry.changes]
        requests = [entry.request for entry in entries if entry.request]
        # Of a record that several writes of the group change, the last state; one statement can't update it twice.
        records = {row.ref: row.values for entry in entries for row in entry.records}
        self.has_stored = True
        async with self._connection.pipeline():
            if changes:
                head = changes[-1][0]
                await self._connection.execute(_INSERT_CHANGES, _columns(changes))
                await self._connection.execute(_UPSERT_RECORDS, _columns(list(records.values())))
                await self._connection.execute("UPDATE configsvc.counter SET head = %s, digest = %s", (head, digest))
                await self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(head)))
            if requests:
                await self._connection.execute(_INSERT_REQUESTS, _columns(requests))
            await self._connection.execute("COMMIT")


_LOCK = "SELECT head FROM configsvc.counter FOR UPDATE"

_TYPES = {
    "version": "integer", "ordinal": "integer", "revision": "bigint", "before_revision": "bigint",
    "created_at": "bigint", "updated_at": "bigint", "at": "bigint",
}  # fmt: skip


def _insert(table: str, columns: Sequence[str]) -> str:
    """Inserts many rows, given as one array a column: one statement for any number of rows."""
    arrays = ", ".join(f"%s::{_TYPES.get(column, 'text')}[]" for column in columns)
    return f"INSERT INTO configsvc.{table} ({', '.join(columns)}) SELECT * FROM unnest({arrays})"


_INSERT_CHANGES = _insert("changes", CHANGE_COLUMNS)
_INSERT_REQUESTS = _insert("requests", ("request_id", "fingerprint", "revision"))
_UPSERT_RECORDS = (
    f"{_insert('records', RECORD_COLUMNS)} ON CONFLICT (kind, environment, key, service) DO UPDATE SET"
    " version = excluded.version, revision = excluded.revision, body = excluded.body,"
    " created_at = excluded.created_at, updated_at = excluded.updated_at, updated_by = excluded.updated_by"
)


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _refusal(error: Exception) -> Exception:
    if isinstance(error, failures.ProgramLimitExceeded):
        refusal = ResourceExhausted("a name is too long for the database's index", "TEXT_TOO_LONG")
        refusal.__cause__ = error
        return refusal
    return error


def _unavailable(cause: BaseException) -> Unavailable:
    error = Unavailable(f"the database can't be used: {cause}")
    error.__cause__ = cause
    return error


@contextmanager
def _translated() -> Iterator[None]:
    """Translates the errors of a database that can't be used; those of a wrong statement are bugs, and stay.

    `OperationalError` is also the pool's; `InternalError` is also what a standby says to writes.
    """
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, OSError) as error:
        raise _unavailable(error) from error
