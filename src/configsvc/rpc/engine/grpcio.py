"""The engine of the library grpcio: `grpc.aio.server`."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import grpc

from configsvc.rpc.context import Metadata
from configsvc.rpc.engine.messages import MAX_SEND_BYTES, serialized
from configsvc.rpc.engine.port import EngineMethod, EngineOptions

logger = logging.getLogger(__name__)

# The gateway allows 96 KiB of headers, and sends the path of a REST call twice. By default gRPC refuses some headers from
# 8 KiB on, at random: too little for a list with a hundred keys, or for a browser's cookies.
METADATA_BYTES = 256 << 10
OPTIONS = (
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    # Clients may ping an idle watch every 10 s. By default gRPC allows one ping in 5 min and then closes the connection
    # (too_many_pings).
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.so_reuseport", 0),
)
# How often it is checked that the server accepts calls.
CHECK_SECONDS = 0.5
# The gateway puts this before the paths of calls whose messages are compressed (deploy/lua/grpc.lua).
COUNTING_PREFIX = "/grpcio"


class GrpcioEngine:
    """See `Engine`."""

    kind = "grpcio"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options

    async def start(self, methods: Sequence[EngineMethod], listen: Sequence[str]) -> list[int]:
        """See `Engine`."""
        self._methods: Any = _Methods(methods, self._options)
        self._servers: list[grpc.aio.Server] = []
        ports = await self._serve(listen)
        # Ports that were any free ones stay the same.
        addresses = [
            f"{address.removesuffix(':0')}:{port}" if address.endswith(":0") else address
            for address, port in zip(listen, ports, strict=True)
        ]
        self._keeper = asyncio.create_task(self._keep_serving(addresses))
        return ports

    async def stop(self, grace_seconds: float) -> None:
        """See `Engine`."""
        if not self._servers:
            return
        self._keeper.cancel()
        await asyncio.gather(
            self._keeper, *(server.stop(grace_seconds) for server in self._servers), return_exceptions=True
        )

    async def _serve(self, listen: Sequence[str]) -> list[int]:
        # gRPC counts the bytes while it decompresses, and stops at the limit.
        options = (*OPTIONS, ("grpc.max_receive_message_length", self._options.max_request_bytes))
        server = grpc.aio.server(options=options, handlers=(self._methods,))
        ports = [server.add_insecure_port(address) for address in listen]
        await server.start()
        self._servers.append(server)
        return ports

    async def _keep_serving(self, listen: Sequence[str]) -> None:
        """Serves anew if grpc.aio has stopped to accept calls, as 1.85 does at a path that is not UTF-8.

        The server before keeps the calls that it has until they end, or until `stop`.
        """
        while True:
            try:
                await self._servers[-1].wait_for_termination(CHECK_SECONDS)
            except Exception as error:
                logger.error("grpc.aio accepts no more calls; another server takes its place", exc_info=error)
                # If the address can't be listened to yet, the check fails again.
                with suppress(RuntimeError):
                    await self._serve(listen)
                    continue
                await asyncio.sleep(CHECK_SECONDS)


class GrpcioContext:
    """A call of grpc.aio as a `ServerContext`."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """See `CallContext`."""
        found: Iterable[tuple[str, str | bytes]] | None = self._context.invocation_metadata()
        return found

    def peer(self) -> str:
        """See `CallContext`."""
        return str(self._context.peer())

    def time_remaining(self) -> float | None:
        """See `ServerContext`."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    def code(self) -> grpc.StatusCode | int:
        """See `ServerContext`."""
        code: grpc.StatusCode | int = self._context.code()
        return code

    def set_details(self, details: str) -> None:
        """See `ServerContext`."""
        self._context.set_details(details)

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """See `ServerContext`."""
        self._context.set_trailing_metadata(trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """See `ServerContext`."""
        await self._context.send_initial_metadata(initial_metadata)

    async def write(self, message: Any) -> None:
        """See `ServerContext`."""
        await self._context.write(serialized(message))

    def try_write(self, message: bytes) -> bool:
        """See `ServerContext`. grpc.aio sends only from a coroutine."""
        return False

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """See `ServerContext`."""
        await self._context.abort(code, details, trailing_metadata)
        raise AssertionError("grpc.aio has raised AbortError")


class _Methods(grpc.GenericRpcHandler):
    """What grpc.aio asks for the handler of each call."""

    def __init__(self, methods: Sequence[EngineMethod], options: EngineOptions) -> None:
        self._handlers = {method.path: _handler(method) for method in methods}
        self._on_unknown_method = options.on_unknown_method

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler; None if no service has the method."""
        path = handler_call_details.method.removeprefix(COUNTING_PREFIX)
        handler = self._handlers.get(path)
        if handler is None:
            self._on_unknown_method(path)
        return handler


def _handler(method: EngineMethod) -> Any:
    """The method as a handler of grpc.aio, which hands over and takes bytes."""

    async def run(received: Any, context: Any) -> Any:
        return await method.run(received, GrpcioContext(context))

    if method.has_request_stream:
        return grpc.stream_stream_rpc_method_handler(run)
    if method.has_response_stream:
        return grpc.unary_stream_rpc_method_handler(run)
    quick_read = method.quick_read
    if quick_read is None:
        return grpc.unary_unary_rpc_method_handler(run)
    quick = quick_read

    async def run_quickly(received: bytes, context: Any) -> Any:
        answer = quick(received, context.invocation_metadata() or ())
        if answer is None:
            return await method.run(received, GrpcioContext(context))
        if answer.details:
            context.set_details(answer.details)
        context.set_trailing_metadata(answer.trailing_metadata)
        return answer.message

    return grpc.unary_unary_rpc_method_handler(run_quickly)
