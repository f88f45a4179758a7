"""Rows that are read until their bodies are enough bytes: nothing is loaded that no answer could have.

A page of a thousand records may have a thousand bodies of a megabyte. In PostgreSQL a window over the sizes cuts the
result before any body is loaded: `octet_length` of a large value reads its length alone. SQLite would load them all, so
there the keys are read first, in one transaction, and then row by row (`Walk`).

Both give rows of one shape: the counter's columns, the table's columns, and in the last the number of rows that there
would be without this bound (0: there is none).
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Rest:
    """Rows of a table: those behind `FROM`, in an order, and what they are bounded by.

    The bodies of the rows before one have fewer than `max_bytes`. Rows that are equal in `group` are never parted; where
    it is empty, each row is by itself.
    """

    table: str
    columns: Sequence[str]
    bodies: Sequence[str]
    conditions: str
    order: str
    group: str
    max_bytes: int | None

    def window(self) -> str:
        """The rows with their number, cut by a window over the sizes."""
        size = " + ".join(f"coalesce(octet_length({body}), 0)" for body in self.bodies)
        names = ", ".join(self.columns)
        if self.max_bytes is None:
            return f"SELECT {names}, 0 AS total FROM {self.table} {self.conditions}"
        # The order by the group alone makes its rows peers, so that the sum up to one of them has them all.
        through = f"ORDER BY {self.group}" if self.group else f"ORDER BY {self.order} ROWS UNBOUNDED PRECEDING"
        own = f"sum(bytes) OVER (PARTITION BY {self.group})" if self.group else "bytes"
        return (
            f"SELECT {names}, total FROM (SELECT {names}, count(*) OVER () AS total,"
            f" sum(bytes) OVER ({through}) - {own} AS before_bytes"
            f" FROM (SELECT {names}, {size} AS bytes FROM {self.table} {self.conditions}) AS f) AS w"
            f" WHERE before_bytes < {self.max_bytes}"
        )

    def keys(self) -> str:
        """The row ids, each with its group."""
        return f"SELECT rowid AS id, {self.group or 'rowid'} AS part FROM {self.table} {self.conditions}"

    def walk(self) -> "Walk":
        """How to read the rows that `keys` named."""
        places = tuple(self.columns.index(body) for body in self.bodies)
        sql = f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE rowid = ?"
        return Walk(sql, len(self.columns), places, self.max_bytes or 0)


@dataclass(frozen=True, slots=True)
class Walk:
    """Reads rows one by one, by their ids, until there are enough bytes."""

    sql: str
    columns: int
    bodies: tuple[int, ...]
    max_bytes: int

    def rows(self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> Rows:
        """The rows that `sql` names by (counter's columns, id, part), as they stand together."""
        connection.execute("BEGIN")
        try:
            named = connection.execute(sql, parameters).fetchall()
            return self._walked(connection, named)
        finally:
            connection.execute("COMMIT")

    def _walked(self, connection: sqlite3.Connection, named: Rows) -> Rows:
        (*counter, first, _) = named[0]
        if first is None:
            return [(*counter, *(None,) * self.columns, 0)]
        found: list[Sequence[Any]] = []
        read_bytes, last = 0, None
        for *_, number, part in named:
            if found and read_bytes >= self.max_bytes and part != last:
                break
            ((*row,),) = connection.execute(self.sql, (number,)).fetchall()
            read_bytes += sum(len(row[place] or "") for place in self.bodies)
            found.append((*counter, *row, len(named)))
            last = part
        return found
