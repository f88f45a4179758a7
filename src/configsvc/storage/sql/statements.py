"""The reading statements, in the SQL that the adapters share.

Each is one statement, so that each is one consistent view in every database, at one round trip, without a transaction
around it: the counter row is joined to whatever was asked for, and says at which revision that is.

Parameters are written `?`, in the order of their values. What dialects say differently is in `Dialect`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from configsvc.domain.events import EventForm, EventLoss
from configsvc.domain.lineage import LogState
from configsvc.domain.records import Ref, Scope
from configsvc.storage.port import ChangeQuery, RecordQuery, RetentionPolicy
from configsvc.storage.sql.bounded_rows import Rest, Walk
from configsvc.storage.sql.rows import CHANGE_COLUMNS, RECORD_COLUMNS, microseconds, ref_values

_LAST_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)

# Columns of the counter row, before those of what was asked for: head, compacted, history.
COUNTER_COLUMNS = 3

_STATE = "head, compacted, history, since, digest"
_LOG_ORDER = "x.revision, x.ordinal"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What databases say differently.

    `tables` comes before each table's name. `among` is a condition that a column is one of a list, `contains` that
    it contains a text; `{}` is the column. `refs` is a table of refs as a subquery. `many` and `many_refs` make the
    parameters of these. `now` is the time by the database's clock, as times are stored. `checksums`: rows of `records` and
    `changes` carry one, in a column of this name. `walks`: bounded results are read row by row (`bounded`).
    """

    tables: str
    among: str
    contains: str
    refs: str
    many: Callable[[Sequence[str]], Any]
    many_refs: Callable[[Sequence[Ref]], tuple[Any, ...]]
    now: str
    checksums: bool = False
    walks: bool = False

    @property
    def record_columns(self) -> tuple[str, ...]:
        """What is read of `records`."""
        return (*RECORD_COLUMNS, "checksum") if self.checksums else RECORD_COLUMNS

    @property
    def change_columns(self) -> tuple[str, ...]:
        """What is read of `changes`."""
        return (*CHANGE_COLUMNS, "checksum") if self.checksums else CHANGE_COLUMNS


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with its parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()
    # How to read what the statement names, in a dialect that reads bounded results row by row.
    walk: Walk | None = None


class _Conditions:
    """Conditions that must all hold, with their parameters in order."""

    def __init__(self) -> None:
        self._texts = ["1 = 1"]
        self.parameters: list[Any] = []

    def add(self, condition: str, *parameters: Any) -> None:
        """One that always applies."""
        self._texts.append(condition)
        self.parameters.extend(parameters)

    def add_if(self, condition: str, parameter: Any) -> None:
        """One that applies where its parameter is not None."""
        if parameter is not None:
            self.add(condition, parameter)

    @property
    def sql(self) -> str:
        return " AND ".join(self._texts)


class Statements:
    """The reading statements of one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._records = f"{dialect.tables}records"
        self._changes = f"{dialect.tables}changes"
        self._counter = f"{dialect.tables}counter"
        self._requests = f"{dialect.tables}requests"
        self._outbox = f"{dialect.tables}outbox"
        self._histories = f"{dialect.tables}histories"
        self._record_columns = ", ".join(dialect.record_columns)
        self._change_columns = ", ".join(dialect.change_columns)

    def state(self) -> Statement:
        """(head, compacted, history, since, digest)"""
        return Statement(f"SELECT {_STATE} FROM {self._counter}")

    def state_and_digest(self, revision: int, lock: str = "") -> Statement:
        """(head, compacted, history, since, digest), and the digest at a revision, None where it is not known."""
        return Statement(f"SELECT {_STATE}, {self._digest_at()} FROM {self._counter}{lock}", (revision,))

    def began(self, history: str, reason: str) -> tuple[Statement, ...]:
        """What gives a history to a log that has none."""
        return (
            Statement(
                f"INSERT INTO {self._histories} SELECT ?, since, ?, {self._dialect.now} FROM {self._counter}"
                " WHERE history = ''",
                (history, reason),
            ),
            Statement(f"UPDATE {self._counter} SET history = ? WHERE history = ''", (history,)),
        )

    def turn(self, before: LogState, after: LogState, reason: str) -> tuple[Statement, ...]:
        """What gives a log another history. All that had left for the outside has left, whatever the head is now."""
        return (
            Statement(
                f"INSERT INTO {self._histories} VALUES (?, ?, ?, {self._dialect.now})",
                (after.history, after.since, reason),
            ),
            Statement(f"UPDATE {self._outbox} SET published = ? WHERE published >= ?", (after.head, before.head)),
            Statement(
                f"UPDATE {self._counter} SET history = ?, since = ?, head = ?",
                (after.history, after.since, after.head),
            ),
        )

    def records(self, refs: Sequence[Ref]) -> Statement:
        """Counter, then the records among `refs`, removed ones too."""
        columns = ", ".join(f"r.{name}" for name in self._dialect.record_columns)
        # CROSS JOIN fixes the order of the loops in SQLite: the refs outside, the records by their key inside.
        found = (
            f"SELECT {columns} FROM {self._dialect.refs} AS w CROSS JOIN {self._records} AS r"
            " WHERE r.kind = w.kind AND r.environment = w.environment AND r.key = w.key AND r.service = w.service"
        )
        return Statement(self._with_counter(found), self._dialect.many_refs(refs))

    def scope(self, scope: Scope) -> Statement:
        """Counter, then the live records of a scope."""
        found = f"SELECT {self._record_columns} FROM {self._records} WHERE kind = ? AND environment = ? AND body IS NOT NULL"
        return Statement(self._with_counter(found), (scope.kind.value, scope.environment))

    def page(self, query: RecordQuery) -> Statement:
        """Counter, then one record more than the page."""
        where = _Conditions()
        where.add("kind = ? AND environment = ? AND body IS NOT NULL", query.kind.value, query.environment)
        if query.services is not None:
            where.add(self._dialect.among.format("service"), self._dialect.many(query.services))
        if query.keys is not None:
            where.add(self._dialect.among.format("key"), self._dialect.many(query.keys))
        if query.prefix:
            where.add("key >= ?", query.prefix)
            where.add_if("key < ?", after_prefix(query.prefix))
        if query.after is not None:
            where.add("(key, service) > (?, ?)", *query.after)
        found = Rest(
            table=self._records,
            columns=self._dialect.record_columns,
            bodies=("body",),
            conditions=f"WHERE {where.sql} ORDER BY key, service LIMIT ?",
            order="key, service",
            group="key",
            max_bytes=query.max_bytes,
        )
        return self._rest(found, "x.key, x.service", (*where.parameters, query.limit + 1))

    def version(self, ref: Ref, version: int) -> Statement:
        """Counter, then the change that made a version."""
        found = (
            f"SELECT {self._change_columns} FROM {self._changes}"
            " WHERE kind = ? AND environment = ? AND service = ? AND key = ? AND version = ?"
        )
        return Statement(self._with_counter(found), (ref.kind.value, ref.environment, ref.service, ref.key, version))

    def versions(self, ref: Ref) -> Statement:
        """(newest version, oldest version that the log has or None), or no row."""
        where = "kind = ? AND environment = ? AND service = ? AND key = ?"
        parts = ref_values(ref)
        return Statement(
            f"SELECT version, (SELECT min(version) FROM {self._changes} WHERE {where}) FROM {self._records} WHERE {where}",
            (*parts, *parts),
        )

    def search(self, query: ChangeQuery) -> Statement:
        """Counter, then one change more than the page."""
        where = _Conditions()
        where.add_if("kind = ?", None if query.kind is None else query.kind.value)
        where.add_if("environment = ?", query.environment)
        where.add_if("service = ?", query.service)
        where.add_if("key = ?", query.key)
        where.add_if("actor = ?", query.actor)
        where.add_if(self._dialect.contains.format("reason"), query.reason)
        where.add_if("at >= ?", None if query.from_time is None else microseconds(query.from_time))
        where.add_if("at < ?", None if query.until_time is None else microseconds(query.until_time))
        where.add_if("revision > ?", query.after_revision)
        where.add_if("revision <= ?", query.until_revision)
        if query.before is not None:
            where.add("(revision, ordinal) < (?, ?)", *query.before)
        found = Rest(
            table=self._changes,
            columns=self._dialect.change_columns,
            bodies=("before", "after"),
            conditions=f"WHERE {where.sql} ORDER BY revision DESC, ordinal DESC LIMIT ?",
            order="revision DESC, ordinal DESC",
            group="",
            max_bytes=query.max_bytes,
        )
        return self._rest(found, "x.revision DESC, x.ordinal DESC", (*where.parameters, query.limit + 1))

    def log(self, after: int, limit: int, max_bytes: int | None) -> Statement:
        """Counter, then the changes after a revision, up to the whole revision of the `limit`th, or fewer (`Rest`)."""
        return self._rest(self._log(max_bytes), _LOG_ORDER, (after, after, limit - 1))

    def resume(self, after: int, limit: int, max_bytes: int | None) -> Statement:
        """Counter, (since, digest), the digest at `after`, then what `log` gives."""
        more = f", c.since, c.digest, {self._digest_at()}"
        return self._rest(self._log(max_bytes), _LOG_ORDER, (after, after, after, limit - 1), more)

    def origin(self) -> Statement:
        """(history, since, reason, made_at) of the history that the log has."""
        return Statement(
            f"SELECT h.history, h.since, h.reason, h.made_at FROM {self._counter} AS c"
            f" JOIN {self._histories} AS h ON h.history = c.history"
        )

    def _log(self, max_bytes: int | None) -> Rest:
        return Rest(
            table=self._changes,
            columns=self._dialect.change_columns,
            bodies=("before", "after"),
            conditions="WHERE revision > ? AND revision <= coalesce("
            f"(SELECT revision FROM {self._changes} WHERE revision > ? ORDER BY revision, ordinal LIMIT 1 OFFSET ?),"
            " 9223372036854775807) ORDER BY revision, ordinal",
            order="revision, ordinal",
            group="revision",
            max_bytes=max_bytes,
        )

    def requests(self, request_ids: Sequence[str]) -> Statement:
        """(request id, fingerprint, revision), then its changes, one a row; or None in each, where it made none."""
        columns = ", ".join(f"c.{name}" for name in self._dialect.change_columns)
        ids = self._dialect.among.format("q.request_id")
        return Statement(
            f"SELECT q.request_id, q.fingerprint, q.revision, {columns} FROM {self._requests} AS q"
            f" LEFT JOIN {self._changes} AS c ON c.revision = q.revision AND c.request_id = q.request_id"
            f" WHERE {ids} ORDER BY q.request_id, c.ordinal",
            (self._dialect.many(request_ids),),
        )

    def compaction(self, keep: RetentionPolicy, at_most: int) -> Statement:
        """The revision up to which to forget next: one row, or none where there is nothing to forget.

        That is the last one that `keep` does not keep, by number or by age, but no further than the whole revision of
        the oldest change but `at_most`, so that one transaction stays short.
        """
        # The oldest change that stays is the keep.changes-th newest; with 0 nothing stays.
        by_number = (
            f"coalesce((SELECT revision - 1 FROM {self._changes} ORDER BY revision DESC, ordinal DESC"
            " LIMIT 1 OFFSET ?), 0)"
            if keep.changes > 0
            else f"(SELECT head + ? FROM {self._counter})"
        )
        parameters = [keep.changes - 1 if keep.changes > 0 else 0]
        by_age = "0"
        if keep.since is not None:
            by_age = (
                f"coalesce((SELECT revision - 1 FROM {self._changes} WHERE at >= ? ORDER BY revision, ordinal LIMIT 1),"
                f" (SELECT head FROM {self._counter}))"
            )
            parameters.append(microseconds(keep.since))
        step = f"(SELECT revision FROM {self._changes} ORDER BY revision, ordinal LIMIT 1 OFFSET ?)"
        bound = f"(SELECT published FROM {self._outbox})" if keep.unpublished else "9223372036854775807"
        return Statement(
            "SELECT CASE WHEN s.step < u.until THEN s.step ELSE u.until END"
            " FROM (SELECT CASE WHEN w.wanted < w.bound THEN w.wanted ELSE w.bound END AS until"
            " FROM (SELECT CASE WHEN k.by_age > k.by_number THEN k.by_age ELSE k.by_number END AS wanted, k.bound"
            f" FROM (SELECT {by_number} AS by_number, {by_age} AS by_age, {bound} AS bound) AS k) AS w) AS u,"
            f" (SELECT {step} AS step) AS s WHERE u.until > (SELECT compacted FROM {self._counter})",
            (*parameters, at_most - 1),
        )

    def quiet_periods(self, longer_than: timedelta) -> Statement:
        """(a change's time, the next one's by time) if they are further apart; and (the newest time, None)."""
        return Statement(
            f"SELECT t.earlier, t.at FROM (SELECT at, lag(at) OVER (ORDER BY at) AS earlier FROM {self._changes}) AS t"
            f" WHERE t.at - t.earlier > ? UNION ALL SELECT max(at), NULL FROM {self._changes}",
            (longer_than // timedelta(microseconds=1),),
        )

    def published(self) -> Statement:
        """(published)"""
        return Statement(f"SELECT published FROM {self._outbox}")

    def outbox_status(self) -> Statement:
        """(published, head, revision and time of the oldest unpublished change, trouble, reduced, skipped, last loss)"""
        oldest = f"(SELECT min(revision) FROM {self._changes} WHERE revision > o.published)"
        return Statement(
            "SELECT o.published, n.head, c.revision, c.at, o.trouble, o.reduced, o.skipped, o.last_loss"
            f" FROM {self._outbox} AS o CROSS JOIN {self._counter} AS n"
            f" LEFT JOIN {self._changes} AS c ON c.revision = {oldest} AND c.ordinal = 0"
        )

    def advance(self, revision: int, losses: Sequence[EventLoss]) -> Statement:
        """Moves the outbox's cursor, counts losses, ends trouble."""
        skipped = sum(loss.form is EventForm.SKIPPED for loss in losses)
        last = losses[-1].to_json() if losses else None
        return Statement(
            f"UPDATE {self._outbox} SET published = ?, trouble = '', reduced = reduced + ?, skipped = skipped + ?,"
            " last_loss = coalesce(?, last_loss)",
            (revision, len(losses) - skipped, skipped, last),
        )

    def report_failure(self, reason: str) -> Statement:
        """Remembers the outbox's trouble."""
        return Statement(f"UPDATE {self._outbox} SET trouble = ?", (reason,))

    def _digest_at(self) -> str:
        """The digest of the log up to a revision, which need not have changes itself (see `LEAP_REVISIONS`)."""
        return f"(SELECT digest FROM {self._changes} WHERE revision <= ? ORDER BY revision DESC, ordinal DESC LIMIT 1)"

    def _rest(self, found: Rest, order: str, parameters: tuple[Any, ...], more: str = "") -> Statement:
        """Counter, with more columns of it, then the rows, then how many there would be without the bound."""
        if self._dialect.walks and found.max_bytes is not None:
            return Statement(self._with_counter(found.keys(), more=more), parameters, found.walk())
        return Statement(self._with_counter(found.window(), order, more), parameters)

    def _with_counter(self, found: str, order: str = "", more: str = "") -> str:
        columns = f"c.head, c.compacted, c.history{more}, x.*"
        ordered = f" ORDER BY {order}" if order else ""
        return f"SELECT {columns} FROM {self._counter} AS c LEFT JOIN ({found}) AS x ON 1 = 1{ordered}"


def after_prefix(prefix: str) -> str | None:
    """The least text that comes after all texts that start with `prefix`, by code point; None where there is none."""
    for end in range(len(prefix), 0, -1):
        following = ord(prefix[end - 1]) + 1
        if following in _SURROGATES:
            following = _SURROGATES.stop
        if following <= _LAST_CODE_POINT:
            return prefix[: end - 1] + chr(following)
    return None
