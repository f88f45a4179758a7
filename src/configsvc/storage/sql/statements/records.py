"""Statements that read current records."""

from collections.abc import Sequence

from configsvc.domain.records import Dependents, Read, Ref, Scope
from configsvc.storage.port import RecordQuery
from configsvc.storage.sql.bounded_rows import BoundedSelect
from configsvc.storage.sql.statements.dialect import Conditions, Statement
from configsvc.storage.sql.statements.tables import Tables

_LAST_CODE_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


class RecordStatements(Tables):
    """Reads `records` and `requests`."""

    def records(self, refs: Sequence[Ref]) -> Statement:
        """Counter, then the records among `refs`, removed ones too."""
        columns = ", ".join(f"r.{name}" for name in self._dialect.record_columns)
        # CROSS JOIN fixes the order of the loops in SQLite: the refs outside, the records by their key inside.
        select = (
            f"SELECT {columns} FROM {self._dialect.refs} AS w CROSS JOIN {self._records} AS r"
            " WHERE r.kind = w.kind AND r.environment = w.environment AND r.key = w.key AND r.service = w.service"
        )
        return Statement(self._with_counter(select), self._dialect.many_refs(refs))

    def reads(self, reads: Sequence[Read]) -> list[Statement]:
        """Statements that together read everything that `reads` names; each: counter, then records."""
        statements = [self._scope(read) for read in reads if isinstance(read, Scope)]
        statements += [self._dependents(read) for read in reads if isinstance(read, Dependents)]
        if refs := [read for read in reads if isinstance(read, Ref)]:
            statements.append(self.records(refs))
        return statements

    def _scope(self, scope: Scope) -> Statement:
        select = (
            f"SELECT {self._record_columns} FROM {self._records}"
            " WHERE kind = ? AND environment = ? AND body IS NOT NULL"
        )
        return Statement(self._with_counter(select), (scope.kind.value, scope.environment))

    def _dependents(self, of: Dependents) -> Statement:
        """A statement for each flag, because PostgreSQL reads whole tables to join them to a list of any length."""
        columns = ", ".join(f"r.{name}" for name in self._dialect.record_columns)
        # The order of the loops, as in `records`.
        select = (
            f"SELECT {columns} FROM {self._requirements} AS q CROSS JOIN {self._records} AS r"
            " WHERE q.environment = ? AND q.required = ?"
            " AND r.kind = ? AND r.environment = ? AND r.key = q.dependent AND r.service = '' AND r.body IS NOT NULL"
        )
        return Statement(self._with_counter(select), (of.environment, of.key, of.kind.value, of.environment))

    def page(self, query: RecordQuery) -> Statement:
        """Counter, then one record more than the page."""
        where = Conditions()
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
        select = BoundedSelect(
            table=self._records,
            columns=self._dialect.record_columns,
            bodies=("body",),
            conditions=f"WHERE {where.sql} ORDER BY key, service LIMIT ?",
            order="key, service",
            group="key",
            max_bytes=query.max_bytes,
        )
        return self._bounded(select, "x.key, x.service", (*where.parameters, query.limit + 1))

    def requests(self, request_ids: Sequence[str]) -> Statement:
        """(request id, fingerprint, revision), then its changes, one a row; if it made none, nulls."""
        columns = ", ".join(f"c.{name}" for name in self._dialect.change_columns)
        ids = self._dialect.among.format("q.request_id")
        return Statement(
            f"SELECT q.request_id, q.fingerprint, q.revision, {columns} FROM {self._requests} AS q"
            f" LEFT JOIN {self._changes} AS c ON c.revision = q.revision AND c.request_id = q.request_id"
            f" WHERE {ids} ORDER BY q.request_id, c.ordinal",
            (self._dialect.many(request_ids),),
        )


def after_prefix(prefix: str) -> str | None:
    """The least text that comes after all texts with this prefix, by code point; None if there is none."""
    for end in range(len(prefix), 0, -1):
        following = ord(prefix[end - 1]) + 1
        if following in _SURROGATES:
            following = _SURROGATES.stop
        if following <= _LAST_CODE_POINT:
            return prefix[: end - 1] + chr(following)
    return None
