"""Both engines with the same methods of the tests, and one channel to each."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from configsvc.rpc.context import ServerContext
from configsvc.rpc.engine import EngineMethod
from tests.rpc.engines import ENGINES, serving

PATIENCE_SECONDS = 30.0
MESSAGE_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Methods:
    """What the methods have seen, and what lets them go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.contexts: list[Any] = []
        self.written = 0

    async def echo(self, received: bytes, context: ServerContext) -> bytes:
        """The request, with the caller's text metadata in the trailers."""
        sent = [(key, value) for key, value in context.invocation_metadata() or () if key.startswith("echo-")]
        context.set_trailing_metadata([*sent, ("peer", context.peer())])
        return received

    async def hold(self, received: bytes, context: ServerContext) -> bytes:
        """Waits until `go_on`."""
        self.contexts.append(context)
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return received

    async def abort(self, received: bytes, context: ServerContext) -> bytes:
        """Ends with an error whose message, details and trailers are of the request's size."""
        details = ("grpc-status-details-bin", received)
        await context.abort(grpc.StatusCode.ABORTED, "näh: 100 %", (details, ("k", "v"), ("k", "w")))

    async def broken(self, received: bytes, context: ServerContext) -> bytes:
        """A fault that no middleware has caught."""
        raise KeyError("hunter2")

    async def stream(self, received: bytes, context: ServerContext) -> None:
        """As many messages as the request says: their numbers."""
        await context.send_initial_metadata((("initial", "i"),))
        for number in range(int(received)):
            await context.write(b"%d" % number)
        context.set_trailing_metadata((("trailing", "t"),))

    async def flood(self, received: bytes, context: ServerContext) -> None:
        """Messages of 64 KiB without end."""
        self.begun.set()
        try:
            while True:
                await context.write(b"x" * (64 << 10))
                self.written += 1
        finally:
            self.cancelled.set()

    async def direct(self, received: bytes, context: ServerContext) -> None:
        """Numbers, each by `try_write` if that is taken, else by `write`; the trailer says how many were."""
        await context.send_initial_metadata(())
        taken = 0
        for number in range(int(received)):
            if context.try_write(b"%d" % number):
                taken += 1
            else:
                await context.write(b"%d" % number)
        context.set_trailing_metadata((("taken", str(taken)),))

    async def failing_stream(self, received: bytes, context: ServerContext) -> None:
        """As many messages as the request says, and then an error."""
        for number in range(int(received)):
            await context.write(b"%d" % number)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    async def idle(self, received: bytes, context: ServerContext) -> None:
        """One message, and the next after `go_on`."""
        await context.write(b"first")
        await self.go_on.wait()
        await context.write(b"second")

    async def chat(self, received: AsyncIterator[bytes], context: ServerContext) -> None:
        """Answers each message with itself."""
        async for message in received:
            await context.write(message)

    def all(self) -> list[EngineMethod]:
        """All of them, by their name, in the service `test.T`."""
        unary = {"Echo": self.echo, "Hold": self.hold, "Abort": self.abort, "Broken": self.broken}
        streams = {
            "Stream": self.stream, "Flood": self.flood, "Direct": self.direct, "FailingStream": self.failing_stream,
            "Idle": self.idle,
        }  # fmt: skip
        return [
            *(EngineMethod(f"/test.T/{name}", run) for name, run in unary.items()),
            *(EngineMethod(f"/test.T/{name}", run, has_response_stream=True) for name, run in streams.items()),
            EngineMethod("/test.T/Chat", self.chat, has_request_stream=True, has_response_stream=True),
        ]


@pytest.fixture
async def methods() -> Methods:
    return Methods()


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
async def address(kind: str, methods: Methods) -> AsyncIterator[str]:
    async with serving(kind, methods.all()) as address:
        yield address


@pytest.fixture
async def channel(address: str) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(address, MESSAGE_OPTIONS) as channel:
        yield channel


async def within(awaitable: Any) -> Any:
    """Its result. Only a failing test waits for the whole time."""
    return await asyncio.wait_for(awaitable, PATIENCE_SECONDS)


async def ended(call: Any) -> grpc.StatusCode:
    """The status of a call, when it has ended."""
    code: grpc.StatusCode = await within(call.code())
    return code
