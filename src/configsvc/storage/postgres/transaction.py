"""One writing transaction: commits a group of writes, or compacts a batch of the log."""

from collections.abc import Sequence

import psycopg
from psycopg import errors as failures

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import NotReadError, Read, Write
from configsvc.errors import ResourceExhausted
from configsvc.storage.postgres.connection import BEGIN, rolled_back_on_error, rows_of
from configsvc.storage.postgres.dialect import DIALECT
from configsvc.storage.postgres.round_trip import RoundTripConnection
from configsvc.storage.postgres.store import store_statement
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
from configsvc.storage.sql.known_rows import KnownRows, plan_known
from configsvc.storage.sql.reads import log_diverged, requests_in, rows_in
from configsvc.storage.sql.statements import Statement, Statements

# Changes deleted in one transaction. It takes some 10 ms, in which writes wait.
COMPACTION_CHANGES = 2_000


class RefusedValuesError(Exception):
    """The server refused the values of one of the writes. The whole transaction was rolled back."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Transaction:
    """Runs once, on a connection without an open transaction."""

    def __init__(self, connection: RoundTripConnection, known: KnownRows) -> None:
        self._connection = connection
        self._known = known
        self._statements = Statements(DIALECT)
        # Whether the server has got anything that it could still commit.
        self.has_stored = False

    async def commit(self, writes: Sequence[Write], seen: Checkpoint) -> tuple[Sequence[Outcome], Checkpoint]:
        """Commits all writes together; returns an outcome for each, and where the log ends.

        Takes one round trip if everything that the writes read is known here, and no other process has written; else two
        or more.

        Raises:
            Unavailable: the log does not continue `seen` (reason `LOG_DIVERGED`).
            RefusedValuesError: see there.
        """
        if (done := await self._commit_known(writes, seen)) is not None:
            return done
        async with rolled_back_on_error(self._connection):
            try:
                state = await self._begin(writes, seen)
                start = state.end
                results = [await self._plan(state, write) for write in writes]
                await self._store(_to_store(results), start, state.end)
            except _REFUSALS as error:
                raise RefusedValuesError(_refusal(error)) from error
        self._known.committed(start, state)
        return _outcomes(results), state.end

    async def _commit_known(
        self, writes: Sequence[Write], seen: Checkpoint
    ) -> tuple[Sequence[Outcome], Checkpoint] | None:
        """Plans the writes without the lock, from known rows, and stores them if the log still ends where they end.

        Returns None, and has no effect, if the writes must be planned under the lock.
        """
        # A connection that has ended must be noticed before anything is sent that could commit: by BEGIN.
        state = None if self._connection.has_unread_input() else self._known.state(writes, seen)
        if state is None:
            return None
        results = []
        for write in writes:
            if (result := plan_known(self._known, state, write)) is None:
                return None
            results.append(result)
        planned = _to_store(results)
        if not planned:
            # Nothing would check that the rows are current.
            return None
        self.has_stored = True
        try:
            (stored,) = await self._connection.run((store_statement(planned, seen, state.end),))
        except (failures.UniqueViolation, failures.SerializationFailure, failures.DeadlockDetected):
            # Most likely a retry, whose request id is stored.
            stored = ()
        except _REFUSALS as error:
            raise RefusedValuesError(_refusal(error)) from error
        if not stored:
            self.has_stored = False
            self._known.must_be_read()
            return None
        self._known.committed(seen, state)
        return _outcomes(results), state.end

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
        records = self._statements.reads(reads)
        requests = [self._statements.requests(request_ids)] if request_ids else []
        # In READ COMMITTED each statement takes its own snapshot when it starts, which is after the lock.
        lock = self._statements.state_and_digest(seen.revision, " FOR UPDATE")
        _, counter, *found = await self._connection.run((_BEGIN, lock, *records, *requests))
        ((*values, stored_digest),) = counter
        log_state = LogState(*values)
        if not log_state.continues(seen, stored_digest or ""):
            raise log_diverged(seen)
        state = GroupState(log_state)
        state.add_rows(reads, [row for rows in found[: len(records)] for row in rows_in(rows)])
        for rows in found[len(records) :]:
            state.add_requests(requests_in(rows))
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
        found = await self._connection.run(self._statements.reads(reads))
        state.add_rows(reads, [row for rows in found for row in rows_in(rows)])

    async def _store(self, writes: Sequence[PlannedWrite], start: Checkpoint, end: Checkpoint) -> None:
        """Stores, notifies and commits, in one round trip."""
        if not writes:
            await self._connection.execute("ROLLBACK")
            return
        store = store_statement(writes, start, end)
        self.has_stored = True
        stored, _ = await self._connection.run((store, _COMMIT))
        if not stored:
            raise RuntimeError("the log moved while its counter was locked")


_REFUSALS = (psycopg.DataError, UnicodeEncodeError, failures.ProgramLimitExceeded)

_BEGIN, _COMMIT = Statement(BEGIN), Statement("COMMIT")

_LOCK = "SELECT head FROM configsvc.counter FOR UPDATE"


def _to_store(results: Sequence[PlannedWrite | BaseException]) -> list[PlannedWrite]:
    """The writes that have anything to store."""
    return [one for one in results if isinstance(one, PlannedWrite) and (one.changes or one.request)]


def _outcomes(results: Sequence[PlannedWrite | BaseException]) -> list[Outcome]:
    return [Outcome(result.commit) if isinstance(result, PlannedWrite) else Outcome(error=result) for result in results]


def _refusal(error: Exception) -> Exception:
    if isinstance(error, failures.ProgramLimitExceeded):
        refusal = ResourceExhausted("a name is too long for the database's index", "TEXT_TOO_LONG")
        refusal.__cause__ = error
        return refusal
    return error
