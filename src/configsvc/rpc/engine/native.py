"""The engine of the library pygrpc-native: HTTP/2 and gRPC in Rust, outside the interpreter lock.

The library hands over each call as an event, with the whole request, and takes the answer by the call's number. It serves
unary methods and streams of responses. A grpc.aio server behind it, on a unix socket, serves the rest: streams of requests,
compressed requests (see `COUNTING_PREFIX`), and paths that no method has.
"""

import asyncio
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from configsvc.rpc.engine.grpcio import METADATA_BYTES, GrpcioEngine
from configsvc.rpc.engine.messages import MAX_SEND_BYTES
from configsvc.rpc.engine.native_call import NativeCall
from configsvc.rpc.engine.port import EngineMethod, EngineOptions, QuickRead, RequestMetadata
from configsvc.rpc.responses.response_metadata import status_headers

logger = logging.getLogger(__name__)

# The threads of the library for a listener. Python has one core at most, and the library needs less than another.
IO_THREADS = 1
# The calls that go to the loop at a time.
BATCH_CALLS = 64
# A connection of the gateway has 1,000 calls at most. A client without a gateway may watch more.
CONCURRENT_STREAMS = 100_000

# `close` drops answers that the library's threads have not written yet. They need less than this.
QUIET_SECONDS = 0.1

# The server behind may wait for its whole grace for a stream that arrived while it began to stop. Its streams end at once.
BEHIND_GRACE_SECONDS = 5.0

# What the library hands over: kind, number of the call, number of the method, request, nothing, details.
Event = tuple[int, int, int, Any, Any, Any]
# Metadata, peer, and the seconds until the caller's deadline.
Details = tuple[tuple[tuple[str, str | bytes], ...], str, float | None]


class NativeEngine:
    """See `Engine`."""

    kind = "native"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._listeners: list[_Listener] = []
        self._rest = GrpcioEngine(options)
        # Of the socket of the server behind, if it has a directory of its own.
        self._directory: Path | None = None

    async def start(self, methods: Sequence[EngineMethod], listen: Sequence[str]) -> list[int]:
        """See `Engine`."""
        behind = self._behind = self._socket_behind(listen)
        await self._rest.start(methods, [f"unix:{behind}"])
        native = [method for method in methods if not method.has_request_stream]
        for address in listen:
            self._listeners.append(_Listener(address, native, self._options.max_request_bytes))
        for listener in self._listeners:
            listener.start(behind)
        return [listener.port for listener in self._listeners]

    async def stop(self, grace_seconds: float) -> None:
        """See `Engine`."""
        drains = [listener.drain(grace_seconds) for listener in self._listeners]
        await asyncio.gather(self._rest.stop(min(grace_seconds, BEHIND_GRACE_SECONDS)), *drains)
        for listener in self._listeners:
            listener.close()
        self._behind.unlink(missing_ok=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _socket_behind(self, listen: Sequence[str]) -> Path:
        """The socket of the server behind. Beside a socket of the gateway it is removed with the gateway's directory, even
        if this process is killed.
        """
        for address in listen:
            if address.startswith("unix:"):
                return Path(address.removeprefix("unix:") + ".rest")
        # The path of a socket must be short.
        self._directory = Path(tempfile.mkdtemp(prefix="configsvc-"))
        return self._directory / "grpcio.sock"


class _Listener:
    """One address. A thread waits for events, and hands them to the loop."""

    def __init__(self, address: str, methods: Sequence[EngineMethod], max_request_bytes: int) -> None:
        self._methods = methods
        self._max_request_bytes = max_request_bytes
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, NativeCall] = {}
        self._is_closing = False
        # Of events so far.
        self._batches = 0
        try:
            self._front = NativeGrpcFront(
                address,
                [(method.path, method.has_response_stream) for method in methods],
                io_threads=IO_THREADS,
                call_details=True,
                # A stream that fails before its first message has trailers only.
                delay_stream_headers=True,
                max_concurrent_streams=CONCURRENT_STREAMS,
                max_metadata_size=METADATA_BYTES,
            )
        except OSError as error:
            raise RuntimeError(f"can't listen to {address}: {error}") from error
        self.port = self._front.bound_port

    def start(self, behind: Path) -> None:
        """Begins to serve. `behind` is the socket of the server for all other methods."""
        self._front.set_fallback(str(behind))
        self._front.start()
        threading.Thread(target=self._receive, name="grpc-events", daemon=True).start()

    async def drain(self, grace_seconds: float) -> None:
        """Returns when no call runs, and none has come for a moment. Those left after the grace are cancelled.

        The library can't tell callers to go elsewhere before `close`, so calls that come meanwhile are answered.
        """
        until = self._loop.time() + grace_seconds
        while (left := until - self._loop.time()) > 0:
            if self._calls:
                await asyncio.wait(self._tasks(), timeout=left)
                continue
            batches = self._batches
            await asyncio.sleep(min(QUIET_SECONDS, left))
            if batches == self._batches:
                break
        self._is_closing = True
        for task in (tasks := self._tasks()):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Closes all connections in order: callers know which calls were not begun."""
        self._front.close()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [call.task for call in self._calls.values() if call.task is not None]

    def _receive(self) -> None:
        while (events := self._front.recv_batch_details(BATCH_CALLS)) is not None:
            try:
                self._loop.call_soon_threadsafe(self._on_events, events, time.monotonic())
            except RuntimeError:
                # The loop was closed without `stop`.
                self._front.close()
                return

    def _on_events(self, events: Sequence[Event], received_at: float) -> None:
        self._batches += 1
        for kind, number, method_number, received, _, details in events:
            if kind == EVENT_CANCEL:
                call = self._calls.get(number)
                if call is not None:
                    call.cancel()
            else:
                self._begin(number, self._methods[method_number], received, details, received_at)

    def _begin(self, number: int, method: EngineMethod, received: bytes, details: Details, received_at: float) -> None:
        front = self._front
        if self._is_closing:
            front.fail(number, _number_of(grpc.StatusCode.UNAVAILABLE), "this replica is shutting down")
            return
        if len(received) > self._max_request_bytes:
            message = f"SERVER: Received message larger than max ({len(received)} vs. {self._max_request_bytes})"
            front.fail(number, _number_of(grpc.StatusCode.RESOURCE_EXHAUSTED), message)
            return
        if method.quick_read is not None and self._answer_quickly(number, method.quick_read, received, details[0]):
            return
        call = self._calls[number] = NativeCall(front, number, *details, received_at)
        call.task = self._loop.create_task(self._run(call, method, received))

    def _answer_quickly(self, number: int, read: QuickRead, received: bytes, metadata: RequestMetadata) -> bool:
        """Whether the call is answered."""
        try:
            answer = read(received, metadata)
            if answer is None:
                return False
            headers = status_headers(answer.details) if answer.details else None
            self._front.respond(number, answer.message, headers, answer.trailing_metadata)
        except Exception:
            # The other calls of this batch must go on.
            logger.exception("a quick read failed")
            return False
        return True

    async def _run(self, call: NativeCall, method: EngineMethod, received: bytes) -> None:
        front, number = self._front, call.number
        try:
            await self._answer(call, method, received)
        except asyncio.CancelledError:
            if self._is_closing:
                front.fail(number, _number_of(grpc.StatusCode.UNAVAILABLE), "this replica is shutting down")
            elif not call.is_cancelled:
                front.fail(number, _number_of(grpc.StatusCode.CANCELLED), "cancelled")
        except Exception:
            # The middleware turns errors into statuses, so this is a fault of the middleware itself, or metadata that the
            # library refuses.
            logger.exception("a call failed outside its middleware", extra={"method": method.path})
            front.fail(number, _number_of(grpc.StatusCode.INTERNAL), "internal error; the log has its cause")
        finally:
            del self._calls[number]

    async def _answer(self, call: NativeCall, method: EngineMethod, received: bytes) -> None:
        front, number = self._front, call.number
        try:
            answer = await method.run(received, call)
        except grpc.aio.AbortError:
            front.fail(number, _number_of(call.code()), call.details, call.trailing_metadata)
            return
        if method.has_response_stream:
            front.stream_end(number, call.trailing_metadata)
        elif len(answer) > MAX_SEND_BYTES:
            message = f"SERVER: Sent message larger than max ({len(answer)} vs. {MAX_SEND_BYTES})"
            front.fail(number, _number_of(grpc.StatusCode.RESOURCE_EXHAUSTED), message)
        else:
            front.respond(number, answer, status_headers(call.details), call.trailing_metadata)


def _number_of(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
