"""What the statements have in common: the tables' names, and the counter row that each read is joined to."""

from typing import Any

from configsvc.storage.sql.bounded_rows import BoundedSelect
from configsvc.storage.sql.statements.dialect import Dialect, Statement

# The columns of the counter row that precede those of a result: head, compacted, history.
COUNTER_COLUMNS = 3


class Tables:
    """The tables of one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._records = f"{dialect.tables}records"
        self._changes = f"{dialect.tables}changes"
        self._counter = f"{dialect.tables}counter"
        self._requests = f"{dialect.tables}requests"
        self._outbox = f"{dialect.tables}outbox"
        self._histories = f"{dialect.tables}histories"
        self._requirements = f"{dialect.tables}requirements"
        self._record_columns = ", ".join(dialect.record_columns)
        self._change_columns = ", ".join(dialect.change_columns)

    def _bounded(
        self,
        select: BoundedSelect,
        order: str,
        parameters: tuple[Any, ...],
        more_counter_columns: str = "",
        join: str = "",
    ) -> Statement:
        """Counter, `more_counter_columns` of it and of what it is joined to, the rows, and their number without the bound."""
        if self._dialect.reads_row_by_row and select.max_bytes is not None:
            ids = self._with_counter(select.row_ids_sql(), "", more_counter_columns, join)
            return Statement(ids, parameters, select.row_by_row())
        return Statement(self._with_counter(select.window_sql(), order, more_counter_columns, join), parameters)

    def _with_counter(self, select: str, order: str = "", more_counter_columns: str = "", join: str = "") -> str:
        """Counter, then the rows of `select`; if it selects none, one row of nulls."""
        columns = f"c.head, c.compacted, c.history{more_counter_columns}, x.*"
        ordered = f" ORDER BY {order}" if order else ""
        return f"SELECT {columns} FROM {self._counter} AS c{join} LEFT JOIN ({select}) AS x ON 1 = 1{ordered}"

    def _digest_at(self) -> str:
        """The digest of the log up to a revision, which need not have changes itself (see `LEAP_REVISIONS`)."""
        return f"(SELECT digest FROM {self._changes} WHERE revision <= ? ORDER BY revision DESC, ordinal DESC LIMIT 1)"
