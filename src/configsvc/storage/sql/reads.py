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
    VersionRange,
)
from configsvc.storage.sql.ledger import Remembered
from configsvc.storage.sql.rows import Row, change_of, row_of, time_of
from configsvc.storage.sql.statements import COUNTER_COLUMNS, Dialect, Statement, Statements

T = TypeVar("T")
Refused = TypeVar("Refused", Unavailable, DataLoss)
Rows = Sequence[Sequence[Any]]

# Columns before those of a change in `Statements.resume`: `LogState`'s, and the digest at the place asked for.
RESUME_COLUMNS = 6


class Reads(ABC):
    """`Reader`, `History` and `Log`. An adapter says how a statement is run."""

    def __init__(self, dialect: Dialect) -> None:
        self._statements = Statements(dialect)
        self._seen = Checkpoint("", 0)

    @abstractmethod
    async def _read(self, statement: Statement, decode: Callable[[Rows], T]) -> T:
        """Runs a statement that only reads, and returns what `decode` makes of its rows.

        Raises:
            Unavailable: the database is away.
        """

    async def get(self, refs: Sequence[Ref]) -> View:
        """See the port."""
        return await self._read(self._statements.records(refs), _view)

    async def page(self, query: RecordQuery) -> RecordPage:
        """See the port."""

        def decode(rows: Rows) -> RecordPage:
            found, history = rows_in([row[:-1] for row in rows]), rows[0][2]
            more = len(found) > query.limit or (rows[0][-1] or 0) > len(found)
            return RecordPage(rows[0][0], records_in(found[: query.limit], history), more, history)

        return await self._read(self._statements.page(query), decode)

    async def version(self, ref: Ref, version: int) -> Change | None:
        """See the port."""

        def decode(rows: Rows) -> Change | None:
            ((_, _, history, *values),) = rows
            return None if values[0] is None else change_of(values, history)

        return await self._read(self._statements.version(ref, version), decode)

    async def versions(self, ref: Ref) -> VersionRange | None:
        """See the port."""

        def decode(rows: Rows) -> VersionRange | None:
            return VersionRange(rows[0][1] or rows[0][0] + 1, rows[0][0]) if rows else None

        return await self._read(self._statements.versions(ref), decode)

    async def search(self, query: ChangeQuery) -> ChangePage:
        """See the port."""

        def decode(rows: Rows) -> ChangePage:
            found = _changes_in(rows)
            more = len(found) > query.limit or (rows[0][-1] or 0) > len(found)
            return ChangePage(rows[0][0], found[: query.limit], more, rows[0][1], rows[0][2])

        return await self._read(self._statements.search(query), decode)

    async def state(self) -> LogState:
        """See the port."""
        return await self._read(self._statements.state(), lambda rows: LogState(*rows[0]))

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        """See the port."""

        def decode(rows: Rows) -> LogPage:
            head, compacted, history, since, digest, there = rows[0][:RESUME_COLUMNS]
            changes = tuple(
                change_of(row[RESUME_COLUMNS:-1], history) for row in rows if row[RESUME_COLUMNS] is not None
            )
            return LogPage(LogState(head, compacted, history, since, digest), there or "", changes)

        page = await self._read(self._statements.resume(seen.revision, limit, max_bytes), decode)
        if page.continues(seen):
            self._see(page.changes[-1].checkpoint if page.changes else replace(seen, history=page.state.history))
        return page

    async def history_origin(self) -> HistoryOrigin:
        """See the port."""

        def decode(rows: Rows) -> HistoryOrigin:
            history, since, reason, made_at = rows[0]
            return HistoryOrigin(history, since, reason, time_of(made_at))

        return await self._read(self._statements.origin(), decode)

    def _see(self, end: Checkpoint) -> None:
        """Remembers what was read or written last: no write is accepted by a log that is no continuation of it."""
        if end.history != self._seen.history or end.revision > self._seen.revision:
            self._seen = end

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        """See the port."""

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

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        """See the port."""

        def decode(rows: Rows) -> QuietPeriods:
            between = sorted((time_of(earlier), time_of(later)) for earlier, later in rows if later is not None)
            newest = next((time_of(at) for at, later in rows if later is None and at is not None), None)
            return QuietPeriods(newest, tuple(between))

        return await self._read(self._statements.quiet_periods(longer_than), decode)

    async def outbox_status(self) -> OutboxStatus:
        """See the port."""
        return await self._read(self._statements.outbox_status(), _status)

    async def ping(self) -> None:
        """See the port."""
        await self.state()


def rows_in(rows: Rows) -> tuple[Row, ...]:
    """Rows of `records` behind the counter's columns; where there is none, one row of nulls."""
    return tuple(row_of(row[COUNTER_COLUMNS:]) for row in rows if row[COUNTER_COLUMNS] is not None)


def records_in(rows: Sequence[Row], history: str) -> tuple[Record, ...]:
    """The live ones."""
    return tuple(record for row in rows if (record := row.record_in(history)))


def requests_in(rows: Rows) -> Mapping[str, Remembered]:
    """What `Statements.requests` found."""
    found: dict[str, Remembered] = {}
    for request_id, fingerprint, revision, *values in rows:
        changes = found[request_id].commit.changes if request_id in found else ()
        if values[0] is not None:
            # The ledger knows the history.
            changes = (*changes, change_of(values, ""))
        found[request_id] = Remembered(fingerprint, Commit(revision, changes))
    return found


def _changes_in(rows: Rows) -> tuple[Change, ...]:
    """Behind the counter's columns, before the number of rows."""
    return tuple(change_of(row[COUNTER_COLUMNS:-1], row[2]) for row in rows if row[COUNTER_COLUMNS] is not None)


def _view(rows: Rows) -> View:
    head, _, history = rows[0][:COUNTER_COLUMNS]
    return View(head, {record.ref: record for record in records_in(rows_in(rows), history)}, history=history)


def diverged(seen: Checkpoint) -> Unavailable:
    """A write to a log that is no continuation of the one that was seen; nothing has happened."""
    return Unavailable(
        f"the database's log is no continuation of the one that was read here up to revision {seen.revision}: an older"
        " copy was restored, or acknowledged writes are lost; it is given a new history, try again in a moment",
        "LOG_DIVERGED",
        {"history": seen.history, "revision": str(seen.revision)},
    )


def again(error: Refused) -> Refused:
    """The same error for another caller: one that several raise would gather all of their tracebacks."""
    same = type(error)(error.message, error.reason, error.metadata)
    same.__cause__ = error.__cause__
    return same


def _status(rows: Rows) -> OutboxStatus:
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
