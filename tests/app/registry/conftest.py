"""The world of replicas that the tests of the service registry share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from configsvc.registry.local import LocalRegistry
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.registry.world import HandClock, Switch, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with SqliteStorage(tmp_path / "configsvc.db") as storage:
        yield World(HandClock(), Switch(), storage, LocalRegistry())
