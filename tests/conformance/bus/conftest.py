"""The adapters that the suite runs over. An adapter is a way to open the bus; add it to `ADAPTERS`.

`open_bus` opens a bus; every bus of one test is a replica on the same backend.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from configsvc.bus.local import LocalBus
from configsvc.bus.port import Bus

OpenBus = Callable[[], Awaitable[Bus]]
Adapter = Callable[[pytest.FixtureRequest, AsyncExitStack], OpenBus]


def local(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenBus:
    """All replicas of one process are the process: they share the bus."""
    opened: list[LocalBus] = []

    async def open_bus() -> Bus:
        if not opened:
            opened.append(await stack.enter_async_context(LocalBus()))
        return opened[0]

    return open_bus


ADAPTERS: dict[str, Adapter] = {"local": local}


@pytest.fixture(params=ADAPTERS)
async def open_bus(request: pytest.FixtureRequest) -> AsyncIterator[OpenBus]:
    async with AsyncExitStack() as stack:
        yield ADAPTERS[request.param](request, stack)


@pytest.fixture
async def bus(open_bus: OpenBus) -> Bus:
    return await open_bus()
