"""Which errors belong to one write of a group, and which to the database."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from configsvc.domain.lineage import Checkpoint
from configsvc.domain.records import Action, Mutation, Put, View, Write
from configsvc.errors import Unavailable
from configsvc.storage.sql.group_commit import Outcome
from configsvc.storage.sqlite.connection import connect, migrate
from configsvc.storage.sqlite.damage import KnownDamage
from configsvc.storage.sqlite.file_lock import lock_file
from configsvc.storage.sqlite.writer import SqliteWriter
from tests.conformance.storage.writing import author, batch, config, create, put

NOTHING_SEEN = Checkpoint("", 0)


@dataclass
class World:
    """A writer and its connection."""

    writer: SqliteWriter
    connection: sqlite3.Connection

    def commit(self, *writes: Write) -> list[Outcome]:
        outcomes, _ = self.writer.commit(writes, NOTHING_SEEN)
        return list(outcomes)

    def stored(self) -> list[str]:
        """The keys of all changes."""
        return [key for (key,) in self.connection.execute("SELECT key FROM changes ORDER BY revision")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    path = tmp_path / "configsvc.db"
    with ExitStack() as stack:
        file = stack.enter_context(lock_file(path))
        connection = stack.enter_context(closing(connect(path, "rwc")))
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection)
        file.wal_opened()
        yield World(SqliteWriter(connection, path, file, KnownDamage(path)), connection)


def refuse_inserts(connection: sqlite3.Connection) -> None:
    """Every INSERT fails with `sqlite3.DatabaseError`, as a statement on a broken database does."""

    def authorize(action: int, *_: str | None) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_INSERT else sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)


def fill_disk(connection: sqlite3.Connection) -> None:
    """The file can't grow any more: `sqlite3.OperationalError`, and SQLite rolls back the transaction."""
    ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
    connection.execute(f"PRAGMA max_page_count = {pages}")


def values_of(outcomes: list[Outcome]) -> list[int]:
    return [outcome.result().revision for outcome in outcomes]


def test_database_error_on_insert_fails_the_whole_group(world: World) -> None:
    refuse_inserts(world.connection)
    outcomes = world.commit(create(config("a")), create(config("b")))
    errors = [outcome.error for outcome in outcomes]
    assert [type(error) for error in errors] == [Unavailable, Unavailable]
    assert errors[0] is not errors[1]
    assert world.writer.refuses_writes
    assert not world.connection.in_transaction
    world.connection.set_authorizer(None)
    assert world.stored() == []
    assert values_of(world.commit(create(config("a")))) == [1]


def test_full_disk_fails_the_whole_group_even_writes_that_would_fit(world: World) -> None:
    fill_disk(world.connection)
    outcomes = world.commit(put(config("small")), put(config("large"), "x" * 1_000_000))
    assert [getattr(outcome.error, "reason", None) for outcome in outcomes] == ["STORAGE_FULL", "STORAGE_FULL"]
    assert not world.connection.in_transaction
    world.connection.execute("PRAGMA max_page_count = 1000000")
    assert world.stored() == []
    world.writer.try_write()
    assert not world.writer.refuses_writes
    assert values_of(world.commit(put(config("small")))) == [1]


def too_long(connection: sqlite3.Connection) -> str:
    """Longer than the connection's limit: `sqlite3.DataError`."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    return "x" * 200_000


def lone_surrogate(connection: sqlite3.Connection) -> str:
    """Has no UTF-8: `UnicodeEncodeError`."""
    return "\ud800"


@pytest.mark.parametrize(("bad", "error"), [(too_long, sqlite3.DataError), (lone_surrogate, UnicodeEncodeError)])
def test_bad_value_fails_its_write_alone(
    world: World, bad: Callable[[sqlite3.Connection], str], error: type[Exception]
) -> None:
    value = bad(world.connection)
    # The first mutation of the bad write is stored before the second one fails.
    mutations = [Put(config(key), {"value": text}, Action.CREATE) for key, text in (("good", "x"), ("bad", value))]
    outcomes = world.commit(create(config("a")), batch(*mutations, by=author("r-1")), create(config("b")))
    assert isinstance(outcomes[1].error, error)
    assert values_of([outcomes[0], outcomes[2]]) == [1, 2]
    assert world.stored() == ["a", "b"]
    ((records, requests),) = world.connection.execute(
        "SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM requests)"
    ).fetchall()
    assert (records, requests) == (2, 0)
    assert not world.writer.refuses_writes


def test_diverged_log_fails_the_group_without_a_refusal_by_the_database(world: World) -> None:
    lost = Checkpoint("another-history", 5)
    outcomes, end = world.writer.commit([create(config("a")), create(config("b"))], lost)
    assert [getattr(outcome.error, "reason", None) for outcome in outcomes] == ["LOG_DIVERGED", "LOG_DIVERGED"]
    assert end == lost
    assert world.stored() == []
    assert not world.writer.refuses_writes


def test_write_is_not_acknowledged_if_the_file_was_removed_during_the_commit(world: World, tmp_path: Path) -> None:
    def remove_file(_: View) -> list[Mutation]:
        (tmp_path / "configsvc.db").unlink()
        return [Put(config("a"), {"value": 1}, Action.CREATE)]

    (outcome,) = world.commit(Write(author(), (config("a"),), remove_file))
    assert getattr(outcome.error, "reason", None) == "STORAGE_GONE"
    assert world.writer.refuses_writes
