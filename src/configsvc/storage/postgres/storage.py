"""PostgreSQL: the database for several replicas.

- Every writing transaction locks the counter row first. The lock is released only after the commit is visible, so
  commits are in the order of revisions across all replicas. What is loaded after the lock is the current state.
- A group of writes takes two round trips (`round_trip.py`): begin, lock, load; then store, notify, commit. The writes are
  planned in memory (`sql/group_state.py`), so they need no savepoints. Each time that a decision asks for more records
  is one more round trip. If the server refuses the values of one write, the group is rolled back, and each write runs in
  its own transaction.
- If this process knows all records that the group reads, because it wrote or read them last (`sql/known_rows.py`), the
  group takes one round trip. Its one statement locks the counter, and stores nothing if the log has moved; then the group
  takes the way above. While other replicas write, every group does: attempts that fail would only starve this replica.
- A read is one statement. In PostgreSQL that is one snapshot, and one round trip; a REPEATABLE READ transaction would
  need four statements.
- If the connection is lost around COMMIT, the outcome is unknown, and `Unavailable` says so. A statement that exceeds
  `ANSWER_SECONDS` is abandoned, so that a server that hangs costs each caller a bounded time.
- Each commit notifies the channel `configsvc_changes` of the new head, within the transaction.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import errors as failures

from configsvc.domain.instances import Incarnation
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint, LogState
from configsvc.domain.records import Commit, Write
from configsvc.errors import Unavailable
from configsvc.storage.port import Heartbeat, OutboxLease, RetentionPolicy
from configsvc.storage.postgres.connection import CHANNEL, Connection, rows_of, translated
from configsvc.storage.postgres.dialect import DIALECT
from configsvc.storage.postgres.heartbeats import PostgresHeartbeats
from configsvc.storage.postgres.history import new_history, new_history_if_diverged
from configsvc.storage.postgres.outbox import PostgresOutboxLease
from configsvc.storage.postgres.pools import CONNECT_SECONDS, Pools
from configsvc.storage.postgres.schema import migrate
from configsvc.storage.postgres.transaction import RefusedValuesError, Transaction
from configsvc.storage.sql.compaction import CompactionTarget
from configsvc.storage.sql.group_commit import DEFAULT_GROUP_WRITES, DEFAULT_QUEUE_WRITES, GroupCommit, Outcome
from configsvc.storage.sql.known_rows import KnownRows
from configsvc.storage.sql.reads import Rows, SqlReads, T, copy_of
from configsvc.storage.sql.statements import Statement
from configsvc.tasks import Supervisor

# The service can't cause serialization failures or deadlocks, because all writers lock the same row first. Statements of
# an administrator can; then another attempt succeeds.
_ATTEMPTS = 3


class PostgresStorage(SqlReads):
    """`Storage` in a PostgreSQL database, in its own schema `configsvc`, which is created if it is missing.

    `url` is libpq's (`postgresql://…`). `connections` is the number of connections that read, in addition to one that
    writes. If entering the context fails, it may be entered again.
    """

    name = "postgresql"

    def __init__(
        self,
        url: str,
        *,
        connections: int = 8,
        queue_writes: int = DEFAULT_QUEUE_WRITES,
        group_writes: int = DEFAULT_GROUP_WRITES,
        supervisor: Supervisor | None = None,
    ) -> None:
        super().__init__(DIALECT)
        self._url = url
        self._pools = Pools(url, connections)
        self._known = KnownRows()
        self._group = GroupCommit(
            self._commit_group, queue_writes=queue_writes, group_writes=group_writes, supervisor=supervisor
        )
        self._heartbeats = PostgresHeartbeats(self._execute)
        self._stack = AsyncExitStack()

    async def write(self, write: Write) -> Commit:
        """Also raises `ResourceExhausted`, reason `WRITE_QUEUE_FULL`, or `TEXT_TOO_LONG` if a name exceeds an index."""
        return await self._group.write(write)

    async def compact(self, policy: RetentionPolicy) -> int:
        target = await self._compaction_target(policy)
        while await self._pools.bounded(self._compact_batch(target)):
            pass
        return (await self.state()).compacted

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        return await self._change_history(
            lambda writer: new_history_if_diverged(writer, self._statements, seen, reason)
        )

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        return await self._change_history(lambda writer: new_history(writer, self._statements, reason, leap))

    @asynccontextmanager
    async def outbox_lease(self) -> AsyncIterator[OutboxLease]:
        async with PostgresOutboxLease(self._url, CHANNEL, self._statements) as lease:
            yield lease

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        return await self._heartbeats.advance_lease_clock(clock_seconds)

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        await self._heartbeats.record_heartbeats(seen)

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        await self._heartbeats.grant_leases(incarnations, clock_seconds)

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        return await self._heartbeats.heartbeats(incarnations)

    async def forget_heartbeats(self, before: float) -> None:
        await self._heartbeats.forget_heartbeats(before)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            with translated():
                await migrate(self._url, CONNECT_SECONDS, self._statements)
            await stack.enter_async_context(self._pools)
            await stack.enter_async_context(self._group)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _execute(self, sql: str, parameters: Sequence[Any]) -> Rows:
        async def run() -> Rows:
            async with self._pools.reading() as connection:
                cursor = await connection.execute(sql, parameters)
                return await cursor.fetchall() if cursor.description else ()

        return await self._pools.bounded(run())

    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        async def run() -> Rows:
            # A restart of the server leaves dead connections in the pool. Each is detected by its first use, so after
            # as many attempts as there are connections none is left.
            for _ in range(self._pools.readers):
                async with self._pools.reading() as connection:
                    try:
                        return await rows_of(connection, statement)
                    except (psycopg.OperationalError, psycopg.InterfaceError):
                        if not connection.closed:
                            raise
            async with self._pools.reading() as connection:
                return await rows_of(connection, statement)

        return decode(await self._pools.bounded(run()))

    async def _commit_group(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        try:
            return await self._pools.bounded(self._commit_together(writes))
        except RefusedValuesError as refused:
            if len(writes) == 1:
                return [Outcome(error=refused.error)]
            return [outcome for write in writes for outcome in await self._commit_group([write])]
        except Unavailable as error:
            return [Outcome(error=copy_of(error)) for _ in writes]

    async def _commit_together(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        for _ in range(_ATTEMPTS - 1):
            async with self._pools.writing() as connection:
                transaction = Transaction(connection, self._known)
                try:
                    return await self._commit(transaction, writes)
                except (failures.SerializationFailure, failures.DeadlockDetected):
                    continue
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    # Retry only if the connection was dead before the transaction stored anything.
                    if not connection.closed or transaction.has_stored:
                        raise
        async with self._pools.writing() as connection:
            return await self._commit(Transaction(connection, self._known), writes)

    async def _commit(self, transaction: Transaction, writes: Sequence[Write]) -> Sequence[Outcome]:
        outcomes, end = await transaction.commit(writes, self._seen)
        self._advance_seen(end)
        return outcomes

    async def _compact_batch(self, target: CompactionTarget) -> bool:
        async with self._pools.writing() as connection:
            return await Transaction(connection, self._known).compact_batch(target)

    async def _change_history(self, work: Callable[[Connection], Awaitable[LogState]]) -> LogState:
        async def run() -> LogState:
            async with self._pools.writing() as connection:
                return await work(connection)

        state = await self._pools.bounded(run())
        self._advance_seen(state.end)
        return state
