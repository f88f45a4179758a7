"""One replica over a real embedded storage, on a clock that the test advances."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from configsvc.storage.port import Storage
from tests.app.fake_clock import FakeClock
from tests.app.replica import Replica, open_replica, open_storage


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(tmp_path) as opened:
        yield opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def replica(storage: Storage, clock: FakeClock) -> AsyncIterator[Replica]:
    async with open_replica(storage, clock) as opened:
        yield opened
