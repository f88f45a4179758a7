"""The suite's one parameter: which adapter. Nothing beyond this file asks which it is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from configsvc.storage.port import Storage
from configsvc.storage.postgres import PostgresStorage
from configsvc.storage.sqlite import SqliteStorage
from tests.conformance.storage.writing import StorageFactory


@pytest.fixture(params=["sqlite", "postgres"])
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> StorageFactory:
    """Makes a storage, not yet entered, over the same empty database each time."""
    if request.param == "sqlite":
        return lambda: SqliteStorage(tmp_path / "storage.db")
    url: str = request.getfixturevalue("postgres_url")
    return lambda: PostgresStorage(url)


@pytest.fixture
async def storage(open_storage: StorageFactory) -> AsyncIterator[Storage]:
    """An open, empty storage."""
    async with open_storage() as opened:
        yield opened
