"""The statement that searches the change log, at a cost that does not depend on the log's length.

The database walks along one index, from the newest change on, over the *candidates*: changes of one record, of one actor,
of one environment, or all. The other filters are applied to them one by one. After `ChangeQuery.max_examined` candidates
the statement ends, and the page says where the next one begins.

The candidates are a subquery with a LIMIT, in the order of all columns of their index. So no planner can choose another
index, whatever it believes about the filters.
"""

from dataclasses import dataclass

from configsvc.storage.port import ChangeQuery
from configsvc.storage.sql.bounded_rows import BoundedSelect
from configsvc.storage.sql.rows import microseconds
from configsvc.storage.sql.statements.dialect import Conditions, Statement
from configsvc.storage.sql.statements.tables import Tables

_LAST_REVISION = 2**63 - 1
_LAST_VERSION = 2**31 - 1
_RECORD = ("kind", "environment", "key", "service")
# Filters that begin an index, the most selective ones first.
_SERVED: tuple[tuple[str, ...], ...] = (_RECORD, ("actor",), ("environment",), ())


@dataclass(frozen=True, slots=True)
class _Candidates:
    """`where` selects them, `order` is that of their index, newest first; `filters` are those that `where` does not have."""

    where: Conditions
    order: str
    filters: Conditions


class SearchStatements(Tables):
    """Searches `changes`."""

    def search(self, query: ChangeQuery) -> Statement:
        """Counter, (revision, ordinal) of the last candidate or nulls, then one change more than the page.

        The last candidate is null if all were examined, or if each of them is in the result.
        """
        candidates = self._candidates(query)
        walk, order, filters = candidates.where, candidates.order, candidates.filters
        found = BoundedSelect(
            table=self._changes,
            columns=self._dialect.change_columns,
            bodies=("before", "after"),
            conditions=f"WHERE {walk.sql} ORDER BY {order} LIMIT ?",
            order=order,
            group="",
            max_bytes=query.max_bytes,
        )
        newest_first = "x.revision DESC, x.ordinal DESC"
        if not filters.parameters:
            return self._bounded(found, newest_first, (*walk.parameters, query.limit + 1), ", NULL, NULL")
        walked = f"FROM {self._changes} WHERE {walk.sql} ORDER BY {order} LIMIT"
        found = found.among(f"{walked} ?", f"WHERE {filters.sql} ORDER BY {order} LIMIT ?")
        last = f" LEFT JOIN (SELECT revision, ordinal {walked} 1 OFFSET ?) AS e ON 1 = 1"
        parameters = (*walk.parameters, query.max_examined - 1)
        parameters += (*walk.parameters, query.max_examined, *filters.parameters, query.limit + 1)
        return self._bounded(found, newest_first, parameters, ", e.revision, e.ordinal", last)

    def _candidates(self, query: ChangeQuery) -> _Candidates:
        equal = _equal(query)
        served = next(names for names in _SERVED if all(name in equal for name in names))
        values = [equal.pop(name) for name in served]
        filters = self._filters(query, equal)
        if served == _RECORD:
            return self._versions(query, values, filters)
        where = Conditions()
        for name, value in zip(served, values, strict=True):
            where.add(self._dialect.same.format(name), value)
        most = _LAST_REVISION if query.until_revision is None else query.until_revision
        if query.before is not None:
            most = min(most, query.before[0])
            where.add("(revision, ordinal) < (?, ?)", *query.before)
        where.add("revision > ? AND revision <= ?", query.after_revision or 0, most)
        order = ", ".join(f"{name} DESC" for name in (*served, "revision", "ordinal"))
        return _Candidates(where, order, filters)

    def _versions(self, query: ChangeQuery, values: list[str], filters: Conditions) -> _Candidates:
        """The changes of one record. The order of its versions is that of their revisions."""
        filters.add_if("revision > ?", query.after_revision)
        filters.add_if("revision <= ?", query.until_revision)
        where = Conditions()
        same = " AND ".join(f"{name} = ?" for name in _RECORD)
        where.add(same, *values)
        if query.before is not None:
            # The walk begins after the version of that change, if it is one of this record.
            version = f"SELECT version FROM {self._changes} WHERE revision = ? AND ordinal = ? AND {same}"
            where.add(f"version < coalesce(({version}), {_LAST_VERSION})", *query.before, *values)
            where.add("(revision, ordinal) < (?, ?)", *query.before)
        return _Candidates(where, "version DESC", filters)

    def _filters(self, query: ChangeQuery, equal: dict[str, str]) -> Conditions:
        filters = Conditions()
        for name, value in equal.items():
            filters.add(f"{name} = ?", value)
        filters.add_if(self._dialect.contains.format("reason"), query.reason)
        filters.add_if("at >= ?", None if query.from_time is None else microseconds(query.from_time))
        filters.add_if("at < ?", None if query.until_time is None else microseconds(query.until_time))
        return filters


def _equal(query: ChangeQuery) -> dict[str, str]:
    """The filters that compare a column with a value."""
    kind = None if query.kind is None else query.kind.value
    values = {
        "kind": kind,
        "environment": query.environment,
        "key": query.key,
        "service": query.service,
        "actor": query.actor,
    }
    return {name: value for name, value in values.items() if value is not None}
