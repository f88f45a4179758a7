"""Changes that are written past the stream of a watch, while its caller waits for the next message."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from configsvc_client.v1 import config_pb2

from configsvc.app.watch.hub import WatchHub
from configsvc.domain.records import Change
from configsvc.rpc import convert
from configsvc.rpc.convert.message_budget import Detail
from configsvc.rpc.offload import LARGE_BYTES
from configsvc.rpc.responses.watch_streams import WatchStreams
from tests.app.fake_clock import settle, until
from tests.app.replica import Replica, config
from tests.rpc.local_watches import ALL, open_hub, put, snapshot

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def hub(replica: Replica) -> WatchHub:
    return open_hub(replica)


class Caller:
    """A caller of a watch, and the messages that it got: past the stream, and all of them in order."""

    def __init__(self) -> None:
        self.is_full = False
        self.past_stream: list[bytes] = []
        self.messages: list[Any] = []

    def try_write(self, message: bytes) -> bool:
        if self.is_full:
            return False
        self.past_stream.append(message)
        self._add(message)
        return True

    async def read(self, stream: AsyncIterator[Any]) -> None:
        async for message in stream:
            self._add(message)

    async def until(self, is_there: Callable[[Any], bool]) -> None:
        """Returns when the newest message is that one, and the caller waits for the next."""
        await until(lambda: self.messages and is_there(self.messages[-1]))
        await settle()

    def _add(self, message: Any) -> None:
        if isinstance(message, bytes):
            message = config_pb2.WatchConfigsResponse.FromString(message)
        self.messages.append(message)


def watches(hub: WatchHub, change: Callable[[Change, Detail], Any] = convert.config_change) -> Any:
    return WatchStreams(
        hub, response=config_pb2.WatchConfigsResponse, snapshot=snapshot, item=convert.config, change=change
    )


@asynccontextmanager
async def reading(streams: Any, caller: Caller) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(caller.read(streams.stream(ALL, None, "", caller.try_write)))
    try:
        await caller.until(lambda message: message.HasField("synced"))
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_written_change_is_the_message_of_the_stream_and_encoded_once(replica: Replica, hub: WatchHub) -> None:
    encodings = 0

    def change(change: Change, detail: Detail) -> Any:
        nonlocal encodings
        encodings += 1
        return convert.config_change(change, detail)

    streams = watches(hub, change)
    first, second, third = Caller(), Caller(), Caller()
    third.is_full = True
    async with reading(streams, first), reading(streams, second), reading(streams, third):
        await put(replica, config("k"), "1")
        assert first.past_stream[0] is second.past_stream[0]
        await third.until(lambda message: message.HasField("change"))
    assert encodings == 1
    assert first.messages[-1] == third.messages[-1]
    assert (first.messages[-1].change.revision, first.messages[-1].change.revision_complete) == (1, True)
    assert not third.past_stream


async def test_large_change_comes_through_the_stream_and_what_follows_does_not_overtake_it(
    replica: Replica, hub: WatchHub
) -> None:
    """It is encoded on a thread. Afterwards changes are written past the stream again."""
    caller = Caller()
    async with reading(watches(hub), caller):
        await put(replica, config("k"), "x" * LARGE_BYTES)
        await put(replica, config("k2"), "small")
        await caller.until(lambda message: message.change.revision == 2)
        await put(replica, config("k2"), "smaller")
        revisions = [message.change.revision for message in caller.messages if message.HasField("change")]
    assert revisions == [1, 2, 3]
    assert config_pb2.WatchConfigsResponse.FromString(caller.past_stream[-1]).change.revision == 3
    assert len(caller.past_stream) <= 2


async def test_change_that_cannot_be_encoded_ends_its_watch_with_the_error(replica: Replica, hub: WatchHub) -> None:
    def failing(change: Change, detail: Detail) -> Any:
        if change.revision == 2:
            raise KeyError("hunter2")
        return convert.config_change(change, detail)

    caller = Caller()
    async with reading(watches(hub, failing), caller) as task:
        await put(replica, config("k"), "1")
        await put(replica, config("k"), "2")
        with pytest.raises(KeyError):
            await asyncio.wait_for(task, 10)
    assert caller.messages[-1].error.message == "internal error; the log has its cause"
    assert len(caller.past_stream) == 1
    assert hub.watchers == 0


async def test_progress_is_written_with_the_history(replica: Replica) -> None:
    hub = open_hub(replica, progress_seconds=0.01)
    caller = Caller()
    async with reading(watches(hub), caller):
        await put(replica, config("k", environment="other"), "1")
        await caller.until(lambda message: message.progress.revision == 1)
    assert caller.messages[-1].progress.history == replica.tail.history
    assert caller.past_stream
    hub.shutdown()
