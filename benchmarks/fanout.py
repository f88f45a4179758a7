"""How soon one write reaches all of many watchers, each with its own stream."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from benchmarks.measure import Effort, Figure, Table, in_async_turns, run
from benchmarks.targets import CALL_SECONDS, Watch, update_method

WATCHERS = (100, 1_000)
# As many streams as a browser or a proxy puts on one connection; the cost is per stream.
STREAMS_A_CHANNEL = 100
EVENTS_A_ROUND = 3
PATIENCE_SECONDS = 60

# Address, watch, and the write that all watchers receive.
Watched = tuple[str, Watch, bytes]


def tables(effort: Effort, watched: Mapping[str, Watched]) -> Sequence[Table]:
    """One table for each number of watchers."""
    return [run(_table(effort, watched, count)) for count in WATCHERS]


async def _table(effort: Effort, watched: Mapping[str, Watched], count: int) -> Table:
    async with AsyncExitStack() as stack:
        audiences = {name: await stack.enter_async_context(_audience(*how, count)) for name, how in watched.items()}
        for audience in audiences.values():
            await audience.one_event()
        figures: tuple[Figure, ...] = await in_async_turns(
            {name: audience.round for name, audience in audiences.items()}, effort.rounds
        )
    return Table(
        f"One write to {count:,} watchers",
        "ms until the last has it",
        figures,
        "500 bytes; from the request of the write on",
    )


class _Audience:
    """The watchers and the writer."""

    def __init__(self, watch: Watch, write: bytes, writer: Any, count: int) -> None:
        self._watch = watch
        self._write = write
        self._writer = writer
        self._count = count
        self._arrived = 0
        self._open = asyncio.Semaphore(0)
        self._all = asyncio.Event()
        self._last = 0.0

    async def listen(self, messages: Any) -> None:
        """Runs one watcher until it is cancelled."""
        async for data in messages:
            if self._watch.opens(data):
                break
        self._open.release()
        async for data in messages:
            if not self._watch.changes(data):
                continue
            self._arrived += 1
            if self._arrived == self._count:
                self._last = time.perf_counter()
                self._all.set()

    async def all_open(self) -> None:
        """Returns when every watcher has the initial state and waits for changes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(self._count):
                await self._open.acquire()

    async def one_event(self) -> float:
        """Milliseconds from the request of a write until the last watcher has the change."""
        self._arrived = 0
        self._all.clear()
        began = time.perf_counter()
        await self._writer(self._write, timeout=CALL_SECONDS)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._all.wait()
        return (self._last - began) * 1e3

    async def round(self) -> float:
        """The median of several events."""
        return statistics.median([await self.one_event() for _ in range(EVENTS_A_ROUND)])


@asynccontextmanager
async def _audience(address: str, watch: Watch, write: bytes, count: int) -> AsyncIterator[_Audience]:
    async with AsyncExitStack() as stack:
        # Otherwise all channels to one address would share a connection.
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels: list[Any] = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
            for _ in range(1 + -(-count // STREAMS_A_CHANNEL))
        ]
        audience = _Audience(watch, write, channels[0].unary_unary(update_method(watch)), count)
        tasks = []
        for number in range(count):
            channel = channels[1 + number // STREAMS_A_CHANNEL]
            tasks.append(asyncio.create_task(audience.listen(await _messages(channel, watch))))
        try:
            await audience.all_open()
            yield audience
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _messages(channel: Any, watch: Watch) -> Any:
    if not watch.bidirectional:
        return channel.unary_stream(watch.method)(watch.request)
    call = channel.stream_stream(watch.method)()
    # This side keeps the stream open: etcd would end the watch if it were half-closed.
    await call.write(watch.request)
    return call
