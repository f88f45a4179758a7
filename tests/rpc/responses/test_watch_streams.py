"""What a watch costs the server: one encoding for all watchers, and nothing after the caller has left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc

from configsvc.app.watch.hub import WatchHub
from configsvc.domain.records import Change
from configsvc.rpc import convert
from configsvc.rpc.convert.message_budget import Detail
from configsvc.rpc.responses import encoded_changes
from configsvc.rpc.responses.watch_streams import WatchStreams
from tests.app.replica import Replica, config
from tests.rpc.engines import ENGINES
from tests.rpc.local_watches import ALL, open_hub, put, serving_configs, snapshot
from tests.rpc.refusals import refusal
from tests.rpc.server_process import eventually

WATCHERS = 2


@pytest.fixture
def hub(replica: Replica) -> WatchHub:
    return open_hub(replica, max_watchers=WATCHERS)


class CountingEncoder:
    """Counts how often a change is encoded."""

    def __init__(self) -> None:
        self.count = 0

    def change(self, change: Change, detail: Detail) -> Any:
        self.count += 1
        return convert.config_change(change, detail)


async def test_change_is_encoded_once_for_all_watchers(replica: Replica, hub: WatchHub) -> None:
    encoder = CountingEncoder()
    watches = WatchStreams(
        hub, response=config_pb2.WatchConfigsResponse, snapshot=snapshot, item=convert.config, change=encoder.change
    )
    async with AsyncExitStack() as stack:
        streams: list[Any] = [
            await stack.enter_async_context(aclosing(watches.stream(ALL, None))) for _ in range(WATCHERS)
        ]
        for stream in streams:
            assert (await anext(stream)).synced.revision == 0
        for number in range(1, 4):
            await put(replica, config("k"), str(number))
            sent = [await anext(stream) for stream in streams]
            assert sent[0] is sent[1]
            assert config_pb2.WatchConfigsResponse.FromString(sent[0]).change.revision == number
    assert encoder.count == 3


async def test_cache_of_encoded_changes_is_bounded_in_bytes(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_changes, "MAX_BYTES", 3_000)
    encoder = CountingEncoder()
    watches = WatchStreams(
        hub, response=config_pb2.WatchConfigsResponse, snapshot=snapshot, item=convert.config, change=encoder.change
    )
    for number in range(10):
        await put(replica, config(f"k{number}"), "x" * 1_000)

    async def replay(after: int) -> None:
        async with aclosing(watches.stream(ALL, after)) as stream:
            for _ in range(10 - after + 1):
                await anext(stream)

    await replay(0)
    assert encoder.count == 10
    await replay(8)
    assert encoder.count == 10, "the newest two are there"
    await replay(0)
    assert encoder.count > 12, "the oldest are not"


async def test_unexpected_error_is_sent_as_a_message_too(replica: Replica, hub: WatchHub) -> None:
    """The end of an HTTP/1.1 stream can't carry an error."""

    def failing(change: Change, detail: Detail) -> Any:
        raise KeyError("hunter2")

    watches = WatchStreams(
        hub, response=config_pb2.WatchConfigsResponse, snapshot=snapshot, item=convert.config, change=failing
    )
    async with aclosing(watches.stream(ALL, None)) as stream:
        await anext(stream)
        await put(replica, config("k"), "1")
        error = (await anext(stream)).error
        assert (error.code, error.message) == (
            grpc.StatusCode.INTERNAL.value[0],
            "internal error; the log has its cause",
        )
        with pytest.raises(KeyError):
            await anext(stream)


@pytest.fixture(params=ENGINES)
async def stub(request: pytest.FixtureRequest, replica: Replica, hub: WatchHub) -> AsyncIterator[Any]:
    async with serving_configs(request.param, replica, hub) as address, grpc.aio.insecure_channel(address) as channel:
        yield config_pb2_grpc.ConfigServiceStub(channel)


async def wait_for_watchers(hub: WatchHub, left: int) -> None:
    await asyncio.to_thread(eventually, lambda: hub.watchers == left, f"{left} watchers are left")


@pytest.mark.parametrize("way", ["idle", "full"])
async def test_watcher_is_freed_when_its_caller_leaves(stub: Any, replica: Replica, hub: WatchHub, way: str) -> None:
    """Also if the caller has stopped reading, and the server waits in the middle of a message (`full`)."""
    calls = [stub.WatchConfigs(config_pb2.WatchConfigsRequest(environment="test")) for _ in range(WATCHERS)]
    for call in calls:
        assert (await call.read()).HasField("synced")
    if way == "full":
        for number in range(40):
            await put(replica, config("k"), f"{number}" + "x" * 200_000)
    assert hub.watchers == WATCHERS
    calls[0].cancel()
    await wait_for_watchers(hub, WATCHERS - 1)
    calls[1].cancel()
    await wait_for_watchers(hub, 0)


async def test_watch_over_the_limit_is_refused_until_one_ends(stub: Any, hub: WatchHub) -> None:
    request = config_pb2.WatchConfigsRequest(environment="test")
    calls = [stub.WatchConfigs(request) for _ in range(WATCHERS)]
    for call in calls:
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.WatchConfigs(request).read()
    error = refusal(raised.value)
    assert (error.code, error.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")
    calls[0].cancel()
    await wait_for_watchers(hub, WATCHERS - 1)
    again = stub.WatchConfigs(request)
    assert (await again.read()).HasField("synced")
    for call in (calls[1], again):
        call.cancel()
    await wait_for_watchers(hub, 0)
