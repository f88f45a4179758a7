"""A hub on the replica of `tests/app/conftest.py`."""

from collections.abc import AsyncIterator

import pytest

from configsvc.app.watch.hub import WatchHub
from tests.app.fake_clock import FakeClock
from tests.app.replica import Replica
from tests.app.watch.watching import open_hub


@pytest.fixture
async def hub(replica: Replica, clock: FakeClock) -> AsyncIterator[WatchHub]:
    opened = open_hub(replica, clock)
    yield opened
    opened.shutdown()
