"""The reading half of the port, over any database that can run a `Statement`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from configsvc.domain.events import EventLoss
from configsvc.domain.lineage import Checkpoint, HistoryOrigin, LogState
from configsvc.domain.records import Change, Commit, Record, Ref, View
from configsvc.errors import DataLoss, RevisionOutOfRange, Unavailable
from configsvc.storage.port import (
    READ_BYTES,
    ChangePage,
    ChangeQuery,
    LogPage,
    OutboxStatus,
    QuietPeriods,
    RecordPage,
    RecordQuery,
    RetentionPolicy,
    VersionRange,
)
from configsvc.storage.sql.compaction import CompactionTarget
from configsvc.storage.sql.group_state import StoredRequest
from configsvc.storage.sql.rows import Row, change_of, row_of, time_of
from configsvc.storage.sql.statements import COUNTER_COLUMNS, Dialect, Statement, Statements

T = TypeVar("T")
Copied = TypeVar("Copied", Unavailable, DataLoss)
Rows = Sequence[Sequence[Any]]

# Columns that precede those of a change in `Statements.resume`: `LogState`'s, and the stored digest.
RESUME_COLUMNS = 6
# And in `Statements.search`: the counter's, and the last change that was examined.
SEARCH_COLUMNS = COUNTER_COLUMNS + 2


class SqlReads(ABC):
    """The reading roles of the port. An adapter says how a statement is run."""

    def __init__(self, dialect: Dialect) -> None:
        self._statements = Statements(dialect)
        self._seen = Checkpoint("", 0)

    @abstractmethod
    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        """Runs a statement that only reads, and returns what `decode` makes of its rows.

        Raises:
            Unavailable: the database can't be used.
        """

    async def get(self, refs: Sequence[Ref]) -> View:
        return await self._read(self._statements.records(refs), _view)

    async def page(self, query: RecordQuery) -> RecordPage:
        def decode(rows: Rows) -> RecordPage:
            found, history = rows_in([row[:-1] for row in rows]), rows[0][2]
            more = len(found) > query.limit or (rows[0][-1] or 0) > len(found)
            return RecordPage(rows[0][0], records_in(found[: query.limit], history), more, history)

        return await self._read(self._statements.page(query), decode)

    async def version(self, ref: Ref, version: int) -> Change | None:
        def decode(rows: Rows) -> Change | None:
            ((_, _, history, *values),) = rows
            return None if values[0] is None else change_of(values, history)

        return await self._read(self._statements.version(ref, version), decode)

    async def versions(self, ref: Ref) -> VersionRange | None:
        def decode(rows: Rows) -> VersionRange | None:
            return VersionRange(rows[0][1] or rows[0][0] + 1, rows[0][0]) if rows else None

        return await self._read(self._statements.versions(ref), decode)

    async def search(self, query: ChangeQuery) -> ChangePage:
        def decode(rows: Rows) -> ChangePage:
            (revision, compacted, history, *examined), total = rows[0][:SEARCH_COLUMNS], rows[0][-1]
            found = _changes_in(rows, SEARCH_COLUMNS)
            is_cut = len(found) > query.limit or (total or 0) > len(found)
            end = None if is_cut or examined[0] is None else (examined[0], examined[1])
            return ChangePage(revision, found[: query.limit], is_cut or end is not None, compacted, history, end)

        return await self._read(self._statements.search(query), decode)

    async def state(self) -> LogState:
        return await self._read(self._statements.state(), lambda rows: LogState(*rows[0]))

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        def decode(rows: Rows) -> Sequence[Change]:
            head, compacted, _ = rows[0][:COUNTER_COLUMNS]
            if not compacted <= after <= head:
                what = "was compacted away" if after < compacted else "has not happened yet"
                raise RevisionOutOfRange(
                    f"revision {after} {what}; the log goes from {compacted} to {head}",
                    metadata={"oldest_revision": str(compacted), "current_revision": str(head)},
                )
            return _changes_in(rows)

        return await self._read(self._statements.log(after, limit, max_bytes), decode)

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        def decode(rows: Rows) -> LogPage:
            head, compacted, history, since, digest, stored_digest = rows[0][:RESUME_COLUMNS]
            changes = tuple(
                change_of(row[RESUME_COLUMNS:-1], history) for row in rows if row[RESUME_COLUMNS] is not None
            )
            return LogPage(LogState(head, compacted, history, since, digest), stored_digest or "", changes)

        page = await self._read(self._statements.resume(seen.revision, limit, max_bytes), decode)
        if page.continues(seen):
            self._advance_seen(
                page.changes[-1].checkpoint if page.changes else replace(seen, history=page.state.history)
            )
        return page

    async def history_origin(self) -> HistoryOrigin:
        def decode(rows: Rows) -> HistoryOrigin:
            history, since, reason, made_at = rows[0]
            return HistoryOrigin(history, since, reason, time_of(made_at))

        return await self._read(self._statements.origin(), decode)

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        def decode(rows: Rows) -> QuietPeriods:
            periods = sorted((time_of(earlier), time_of(later)) for earlier, later in rows if later is not None)
            newest = next((time_of(at) for at, later in rows if later is None and at is not None), None)
            return QuietPeriods(newest, tuple(periods))

        return await self._read(self._statements.quiet_periods(longer_than), decode)

    async def _compaction_target(self, policy: RetentionPolicy) -> CompactionTarget:
        return await self._read(self._statements.compaction_target(policy), CompactionTarget.of)

    async def outbox_status(self) -> OutboxStatus:
        return await self._read(self._statements.outbox_status(), _outbox_status)

    async def ping(self) -> None:
        await self.state()

    def _advance_seen(self, end: Checkpoint) -> None:
        """Stores the newest point that was read or written here: writes require that the log continues it."""
        if end.history != self._seen.history or end.revision > self._seen.revision:
            self._seen = end


def rows_in(rows: Rows) -> tuple[Row, ...]:
    """Rows of `records` after the counter's columns; a row of nulls stands for none."""
    return tuple(row_of(row[COUNTER_COLUMNS:]) for row in rows if row[COUNTER_COLUMNS] is not None)


def records_in(rows: Sequence[Row], history: str) -> tuple[Record, ...]:
    """The live records among rows."""
    return tuple(record for row in rows if (record := row.record_in(history)))


def requests_in(rows: Rows) -> Mapping[str, StoredRequest]:
    """The result of `Statements.requests`, by request id."""
    found: dict[str, StoredRequest] = {}
    for request_id, fingerprint, revision, *values in rows:
        changes = found[request_id].commit.changes if request_id in found else ()
        if values[0] is not None:
            # `GroupState` adds the history.
            changes = (*changes, change_of(values, ""))
        found[request_id] = StoredRequest(fingerprint, Commit(revision, changes))
    return found


def log_diverged(seen: Checkpoint) -> Unavailable:
    """A write was refused because the log does not continue the one that was seen; it had no effect."""
    return Unavailable(
        f"the database's log does not continue the one that was read here up to revision {seen.revision}: an older copy"
        " was restored, or acknowledged writes are lost; the log is being given a new history, try again in a moment",
        "LOG_DIVERGED",
        {"history": seen.history, "revision": str(seen.revision)},
    )


def copy_of(error: Copied) -> Copied:
    """The same error for another caller. If several callers raised one exception, it would gather all their tracebacks."""
    copy = type(error)(error.message, error.reason, error.metadata)
    copy.__cause__ = error.__cause__
    return copy


def _changes_in(rows: Rows, first_column: int = COUNTER_COLUMNS) -> tuple[Change, ...]:
    """Changes from this column on, without the last column, which is the number of rows."""
    return tuple(change_of(row[first_column:-1], row[2]) for row in rows if row[first_column] is not None)


def _view(rows: Rows) -> View:
    head, _, history = rows[0][:COUNTER_COLUMNS]
    return View(head, {record.ref: record for record in records_in(rows_in(rows), history)}, history=history)


def _outbox_status(rows: Rows) -> OutboxStatus:
    published, head, oldest, at, failure, reduced, skipped, loss = rows[0]
    return OutboxStatus(
        published=published,
        waiting=0 if oldest is None else head - oldest + 1,
        waiting_since=None if at is None else time_of(at),
        failure=failure,
        reduced=reduced,
        skipped=skipped,
        last_loss=None if loss is None else EventLoss.from_json(loss),
    )
