"""Statements, and what databases say differently."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from configsvc.domain.records import Ref
from configsvc.storage.sql.bounded_rows import RowByRowRead
from configsvc.storage.sql.rows import CHANGE_COLUMNS, RECORD_COLUMNS


@dataclass(frozen=True, slots=True)
class Dialect:
    """What databases say differently.

    - `tables` precedes each table's name.
    - `among`: a condition that a column is one of a list; `contains`: that it contains a text; `same`: that it is a text,
      in a form with which the planner still takes the order by this column into account. `{}` is the column.
    - `refs`: a table of refs, as a subquery. `many` and `many_refs` make the parameters of `among` and `refs`.
    - `now`: the database's time, as times are stored.
    - `checksums`: rows of `records` and `changes` have a column `checksum`.
    - `reads_row_by_row`: bounded results are read row by row (`bounded_rows`).
    """

    tables: str
    among: str
    contains: str
    same: str
    refs: str
    many: Callable[[Sequence[str]], Any]
    many_refs: Callable[[Sequence[Ref]], tuple[Any, ...]]
    now: str
    checksums: bool = False
    reads_row_by_row: bool = False

    @property
    def record_columns(self) -> tuple[str, ...]:
        """The columns that are read from `records`."""
        return (*RECORD_COLUMNS, "checksum") if self.checksums else RECORD_COLUMNS

    @property
    def change_columns(self) -> tuple[str, ...]:
        """The columns that are read from `changes`."""
        return (*CHANGE_COLUMNS, "checksum") if self.checksums else CHANGE_COLUMNS


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with its parameters.

    With `row_by_row`, the statement selects row ids, and `row_by_row` reads the rows.
    """

    sql: str
    parameters: tuple[Any, ...] = ()
    row_by_row: RowByRowRead | None = None


class Conditions:
    """Conditions that must all hold, with their parameters in order."""

    def __init__(self) -> None:
        self._texts = ["1 = 1"]
        self.parameters: list[Any] = []

    def add(self, condition: str, *parameters: Any) -> None:
        """Adds a condition."""
        self._texts.append(condition)
        self.parameters.extend(parameters)

    def add_if(self, condition: str, parameter: Any) -> None:
        """Adds a condition if its parameter is not None."""
        if parameter is not None:
            self.add(condition, parameter)

    @property
    def sql(self) -> str:
        """The text after `WHERE`."""
        return " AND ".join(self._texts)
