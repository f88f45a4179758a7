"""One write for a thousand watchers, over gRPC: nobody waits for a client that has stopped reading."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc

from tests.app.replica import Replica, config
from tests.rpc.engines import ENGINES
from tests.rpc.local_watches import open_hub, put, serving_configs

pytestmark = pytest.mark.timeout(180)

READERS, READERS_A_CHANNEL = 999, 100
BUFFER_CHANGES = 4
# More than a stream holds on its way: the window of HTTP/2, and what both sides buffer.
LARGE_VALUE, LARGE_VALUES = "x" * 200_000, 40
SMALL_VALUES = 3


def watch(stub: Any, *keys: str) -> Any:
    return stub.WatchConfigs(config_pb2.WatchConfigsRequest(environment="test", keys=keys))


async def revisions_until(call: Any, last: int) -> list[int]:
    """The revisions of the changes that come, up to this one."""
    revisions: list[int] = []
    while last not in revisions:
        message = await call.read()
        assert not message.HasField("error")
        if message.HasField("change"):
            revisions.append(message.change.revision)
    return revisions


@pytest.mark.parametrize("kind", ENGINES)
async def test_client_that_stops_reading_delays_none_of_999(replica: Replica, kind: str) -> None:
    hub = open_hub(replica, max_watchers=READERS + 1, buffer_changes=BUFFER_CHANGES)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving_configs(kind, replica, hub))
        # Otherwise all channels to one address would share a connection, and its window.
        options = (("grpc.use_local_subchannel_pool", 1),)
        stubs: list[Any] = [
            config_pb2_grpc.ConfigServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
            )
            for _ in range(1 + -(-READERS // READERS_A_CHANNEL))
        ]
        stalled = watch(stubs[0], "large", "small")
        assert (await stalled.read()).HasField("synced")
        (watcher,) = hub._watchers
        readers = [watch(stubs[1 + number // READERS_A_CHANNEL], "small") for number in range(READERS)]
        for reader in readers:
            assert (await reader.read()).HasField("synced")

        for _ in range(LARGE_VALUES):
            await put(replica, config("large"), LARGE_VALUE)
            # Lets the engine take what it takes.
            await asyncio.sleep(0)
        small = [LARGE_VALUES + number for number in range(1, SMALL_VALUES + 1)]
        for _ in small:
            await put(replica, config("small"), "x" * 500)
            assert len(list(watcher.backlog)) <= BUFFER_CHANGES
        assert await asyncio.gather(*(revisions_until(reader, small[-1]) for reader in readers)) == [small] * READERS

        assert hub.conflated > 0
        late = await revisions_until(stalled, small[-1])
        assert late == sorted(set(late))
        assert LARGE_VALUES in late, "the newest of each key comes"
        for call in (stalled, *readers):
            call.cancel()
