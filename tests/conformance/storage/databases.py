"""The databases that the suite runs over: how a storage on one is opened, and how an older copy is put in its place."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from configsvc.storage.postgres import PostgresStorage
from configsvc.storage.sqlite import SqliteStorage
from tests.conformance.storage.writing import StorageFactory
from tests.services.postgres import Postgres

Restore = Callable[[], None]


@dataclass(frozen=True)
class Database:
    """`open` makes a storage, not yet entered. `back_up` copies what is there, and returns what puts the copy back."""

    open: StorageFactory
    back_up: Callable[[], Restore]


def sqlite_database(folder: Path) -> Database:
    """In a file."""
    path = folder / "storage.db"

    def back_up() -> Restore:
        copy = folder / "backup.db"
        _copy(path, copy)
        return lambda: _copy(copy, path)

    return Database(lambda: SqliteStorage(path), back_up)


@contextmanager
def postgres_database(url: str) -> Iterator[Database]:
    """On a server that others use, too."""
    server = Postgres(given=urlsplit(url)._replace(path="/postgres").geturl())
    copies: list[str] = []

    def back_up() -> Restore:
        copies.append(server.back_up(url))
        return lambda: server.restore(url, copies[-1])

    try:
        yield Database(lambda: PostgresStorage(url), back_up)
    finally:
        for copy in copies:
            server.drop_database(copy)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)
