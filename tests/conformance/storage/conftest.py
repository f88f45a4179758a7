"""The suite's only parameter is the adapter. Only this file and `databases` know which one it is."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from configsvc.storage.port import Storage
from tests.conformance.storage.databases import Database, postgres_database, sqlite_database
from tests.conformance.storage.writing import StorageFactory


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    if request.param == "sqlite":
        yield sqlite_database(tmp_path)
        return
    with postgres_database(request.getfixturevalue("postgres_url")) as found:
        yield found


@pytest.fixture
def open_storage(database: Database) -> StorageFactory:
    """Makes a storage whose context is not entered, each time on the same database."""
    return database.open


@pytest.fixture
async def storage(open_storage: StorageFactory) -> AsyncIterator[Storage]:
    """An open, empty storage."""
    async with open_storage() as opened:
        yield opened
