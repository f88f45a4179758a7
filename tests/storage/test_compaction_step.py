"""A compaction reaches its target in steps, and only in the log in which the target was found."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from configsvc.storage.sql.compaction import CompactionTarget
from configsvc.storage.sql.statements import Statements
from configsvc.storage.sqlite.connection import DIALECT, migrate

HEAD = 10


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """A log of ten revisions with two changes each."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        migrate(opened)
        for revision in range(1, HEAD + 1):
            for ordinal in range(2):
                opened.execute(
                    "INSERT INTO changes (revision, ordinal, kind, environment, service, key, action, version,"
                    " before_revision, created_at, actor, reason, request_id, at)"
                    " VALUES (?, ?, 'config', '', '', ?, 'UPDATE', ?, 0, 0, '', '', '', 0)",
                    (revision, ordinal, f"key-{ordinal}", revision),
                )
        opened.execute("UPDATE counter SET head = ?", (HEAD,))
        yield opened


def step(connection: sqlite3.Connection, target: CompactionTarget, max_changes: int) -> int | None:
    """The revision up to which to delete next."""
    statement = Statements(DIALECT).compaction_step(target, max_changes)
    row = connection.execute(statement.sql, statement.parameters).fetchone()
    return None if row is None else int(row[0])


@pytest.mark.parametrize(("max_changes", "expected"), [(1, 1), (2, 1), (3, 2), (13, 7), (14, 7), (15, 7), (99, 7)])
def test_step_has_no_more_changes_than_it_may_and_ends_at_the_target(
    connection: sqlite3.Connection, max_changes: int, expected: int
) -> None:
    assert step(connection, CompactionTarget(HEAD, 7), max_changes) == expected


def test_next_step_begins_after_what_was_deleted(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM changes WHERE revision <= 3")
    connection.execute("UPDATE counter SET compacted = 3")
    assert step(connection, CompactionTarget(HEAD, 7), 4) == 5
    assert step(connection, CompactionTarget(HEAD, 3), 4) is None


def test_log_that_ends_before_it_did_is_not_compacted(connection: sqlite3.Connection) -> None:
    assert step(connection, CompactionTarget(HEAD + 1, 7), 99) is None


def test_target_is_what_both_bounds_allow() -> None:
    assert CompactionTarget.of([(10, 4, 6, 10)]) == CompactionTarget(10, 6)
    assert CompactionTarget.of([(10, 6, 4, 10)]) == CompactionTarget(10, 6)
    assert CompactionTarget.of([(10, 6, 4, 3)]) == CompactionTarget(10, 3)
