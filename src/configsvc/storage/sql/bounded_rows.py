"""Reads rows until their bodies have enough bytes, so that no body is loaded that an answer could not hold.

A page of a thousand records may have a thousand bodies of a megabyte. In PostgreSQL a window function over the sizes cuts
the result before any body is loaded: `octet_length` of a large value reads only its length. SQLite would load every body
for that, so there the row ids are read first, and then row by row in the same transaction (`RowByRowRead`).

Both give rows of the same shape: the counter's columns, the table's columns, and the number of rows that the result would
have without the bound (0: no bound).
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class BoundedSelect:
    """A selection of rows that stops once the bodies of the rows so far have `max_bytes` bytes.

    `conditions` is the SQL after `FROM`, with its order; `order` repeats the order. Rows that are equal in `group` are
    never separated; if it is empty, each row is its own group. `candidates` is the SQL after the columns that selects the
    rows among which `conditions` selects; empty: all rows of the table.
    """

    table: str
    columns: Sequence[str]
    bodies: Sequence[str]
    conditions: str
    order: str
    group: str
    max_bytes: int | None
    candidates: str = ""

    def among(self, candidates: str, conditions: str) -> Self:
        """The same selection among candidates."""
        return replace(self, candidates=candidates, conditions=conditions)

    def window_sql(self) -> str:
        """Selects the rows and their total number, and cuts them by a window over the sizes."""
        size = " + ".join(f"coalesce(octet_length({body}), 0)" for body in self.bodies)
        names = ", ".join(self.columns)
        if self.max_bytes is None:
            return f"SELECT {names}, 0 AS total FROM {self._source(names)} {self.conditions}"
        # Ordering by the group alone makes the rows of a group peers: the sum up to one of them includes them all.
        through = f"ORDER BY {self.group}" if self.group else f"ORDER BY {self.order} ROWS UNBOUNDED PRECEDING"
        own = f"sum(bytes) OVER (PARTITION BY {self.group})" if self.group else "bytes"
        return (
            f"SELECT {names}, total FROM (SELECT {names}, count(*) OVER () AS total,"
            f" sum(bytes) OVER ({through}) - {own} AS before_bytes"
            f" FROM (SELECT {names}, {size} AS bytes FROM {self._source(names)} {self.conditions}) AS f) AS w"
            f" WHERE before_bytes < {self.max_bytes}"
        )

    def row_ids_sql(self) -> str:
        """Selects the row ids, each with its group."""
        if not self.candidates:
            return f"SELECT rowid AS id, {self.group or 'rowid'} AS part FROM {self.table} {self.conditions}"
        # Without the bodies, which may be large.
        names = ", ".join(name for name in self.columns if name not in self.bodies)
        return f"SELECT id, {self.group or 'id'} AS part FROM {self._source(f'rowid AS id, {names}')} {self.conditions}"

    def row_by_row(self) -> "RowByRowRead":
        """How to read the rows that `row_ids_sql` selects."""
        places = tuple(self.columns.index(body) for body in self.bodies)
        sql = f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE rowid = ?"
        return RowByRowRead(sql, len(self.columns), places, self.max_bytes or 0)

    def _source(self, columns: str) -> str:
        return f"(SELECT {columns} {self.candidates}) AS s" if self.candidates else self.table


@dataclass(frozen=True, slots=True)
class RowByRowRead:
    """Reads rows one by one, by their row ids, until their bodies have enough bytes."""

    sql: str
    columns: int
    bodies: tuple[int, ...]
    max_bytes: int

    def rows(self, connection: sqlite3.Connection, ids_sql: str, parameters: Sequence[Any]) -> Rows:
        """The rows that `ids_sql` selects as (counter's columns, id, part), in one consistent view."""
        connection.execute("BEGIN")
        try:
            ids = connection.execute(ids_sql, parameters).fetchall()
            return self._rows_until_bound(connection, ids)
        finally:
            connection.execute("COMMIT")

    def _rows_until_bound(self, connection: sqlite3.Connection, ids: Rows) -> Rows:
        (*counter, first, _) = ids[0]
        if first is None:
            return [(*counter, *(None,) * self.columns, 0)]
        rows: list[Sequence[Any]] = []
        read_bytes, last_part = 0, None
        for *_, row_id, part in ids:
            if rows and read_bytes >= self.max_bytes and part != last_part:
                break
            ((*row,),) = connection.execute(self.sql, (row_id,)).fetchall()
            read_bytes += sum(len(row[place] or "") for place in self.bodies)
            rows.append((*counter, *row, len(ids)))
            last_part = part
        return rows
