"""The databases that the suite runs over: opening a storage on one, and restoring an older copy of it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sql.checksums import checksum
from configsvc.storage.sql.rows import CHANGE_COLUMNS
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.conformance.storage.writing import StorageFactory
from tests.engines.postgres import Postgres

Restore = Callable[[], None]


@dataclass(frozen=True)
class Database:
    """`open` makes a storage whose context is not entered. `back_up` copies the database, and returns a function that
    restores the copy. `run` runs SQL as another program would; `{}` precedes a table's name.
    """

    open: StorageFactory
    back_up: Callable[[], Restore]
    run: Callable[[str], None]


def sqlite_database(folder: Path) -> Database:
    """A database in a file."""
    path = folder / "storage.db"

    def back_up() -> Restore:
        copy = folder / "backup.db"
        _copy(path, copy)
        return lambda: _copy(copy, path)

    def run(sql: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.create_function("row_checksum", -1, checksum)
            connection.executescript(sql.format(""))
            # These changes are on purpose, and must not count as damage.
            connection.execute(f"UPDATE changes SET checksum = row_checksum({', '.join(CHANGE_COLUMNS)})")

    return Database(lambda: SqliteStorage(path), back_up, run)


@contextmanager
def postgres_database(url: str) -> Iterator[Database]:
    """A database on a shared server."""
    server = Postgres(given=urlsplit(url)._replace(path="/postgres").geturl())
    copies: list[str] = []

    def back_up() -> Restore:
        copies.append(server.back_up(url))
        return lambda: server.restore(url, copies[-1])

    def run(sql: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.format("configsvc.").encode())

    try:
        yield Database(lambda: PostgresStorage(url), back_up, run)
    finally:
        for copy in copies:
            server.drop_database(copy)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)
