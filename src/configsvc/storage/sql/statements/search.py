"""The statement that searches the change log, at a cost that does not depend on the log's length.

The database walks along one index, from the newest change on, over the *candidates*: changes of one record, of one actor,
of one environment, or all. The other filters are applied to them one by one. After `ChangeQuery.max_examined` candidates
the statement ends, and the page says where the next one begins.

The candidates are a subquery with a LIMIT, and have the order of their index. So no planner can choose another index,
whatever it believes about the filters.
"""

from dataclasses import dataclass

from configsvc.storage.port import ChangeQuery
from configsvc.storage.sql.bounded_rows import BoundedSelect
from configsvc.storage.sql.rows import microseconds
from configsvc.storage.sql.statements.dialect import Conditions, Statement
from configsvc.storage.sql.statements.tables import Tables

_LAST_REVISION = 2**63 - 1
_LAST_VERSION = 2**31 - 1
_RECORD = ("kind", "environment", "service", "key")


@dataclass(frozen=True, slots=True)
class _Candidates:
    """`where` selects them, `order` is that of their index, newest first; `served` are the filters that `where` holds."""

    where: Conditions
    order: str
    served: tuple[str, ...]


class SearchStatements(Tables):
    """Searches `changes`."""

    def search(self, query: ChangeQuery) -> Statement:
        """Counter, (revision, ordinal) of the last candidate or nulls, then one change more than the page.

        The last candidate is null if all were examined, or if each of them is in the result.
        """
        equal = _equal(query)
        candidates = self._candidates(query, equal)
        filters = self._filters(query, {name: equal[name] for name in equal if name not in candidates.served})
        walk, order = candidates.where, candidates.order
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

    def _candidates(self, query: ChangeQuery, equal: dict[str, str]) -> _Candidates:
        where = Conditions()
        bounds = [_LAST_REVISION if query.until_revision is None else query.until_revision]
        if query.before is not None:
            bounds.append(query.before[0])
        least, most = query.after_revision or 0, min(bounds)
        if all(name in equal for name in _RECORD):
            where.add(_is(_RECORD), *(equal[name] for name in _RECORD))
            where.add("revision > ? AND revision <= ?", least, most)
            if query.before is not None:
                # The order is that of versions, so the walk begins at the version of that change, if it is one of them.
                version = f"(SELECT version FROM {self._changes} WHERE revision = ? AND ordinal = ? AND {_is(_RECORD)})"
                where.add(
                    f"version < coalesce({version}, {_LAST_VERSION})",
                    *query.before,
                    *(equal[name] for name in _RECORD),
                )
            order = "version DESC"
            served: tuple[str, ...] = _RECORD
        else:
            served = next(((name,) for name in ("actor", "environment") if name in equal), ())
            names = [*served, "revision"]
            # A range and no equation: only the index has the order of both columns then.
            row, places = ", ".join(names), ", ".join("?" * len(names))
            values = [equal[name] for name in served]
            where.add(f"({row}) > ({places}) AND ({row}) <= ({places})", *values, least, *values, most)
            order = ", ".join(f"{name} DESC" for name in (*names, "ordinal"))
        if query.before is not None:
            where.add("(revision, ordinal) < (?, ?)", *query.before)
        return _Candidates(where, order, served)

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
        "service": query.service,
        "key": query.key,
        "actor": query.actor,
    }
    return {name: value for name, value in values.items() if value is not None}


def _is(names: tuple[str, ...]) -> str:
    return " AND ".join(f"{name} = ?" for name in names)
