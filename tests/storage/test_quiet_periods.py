"""The statement that finds quiet periods jumps over most changes, and finds the same as a look at all of them."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from configsvc.storage.sql.statements import Statements
from configsvc.storage.sqlite.connection import DIALECT

TIMES = st.lists(st.integers(min_value=-100, max_value=300), max_size=40)


def found(times: Sequence[int], longer_than: int) -> list[tuple[int | None, int | None]]:
    """The rows of the statement in a log with changes at these times."""
    statement = Statements(DIALECT).quiet_periods(timedelta(microseconds=longer_than))
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE changes (at INTEGER NOT NULL)")
        connection.executemany("INSERT INTO changes VALUES (?)", [(time,) for time in times])
        return connection.execute(statement.sql, statement.parameters).fetchall()


@given(TIMES, st.integers(min_value=0, max_value=50))
@example([], 0)
@example([5, 5, 5], 0)
@example([0, 10, 20, 31], 10)
def test_jumps_find_every_quiet_period(times: list[int], longer_than: int) -> None:
    ordered = sorted(times)
    quiet = [(earlier, later) for earlier, later in pairwise(ordered) if later - earlier > longer_than]
    assert found(times, longer_than) == [*quiet, (max(times, default=None), None)]
