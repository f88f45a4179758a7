"""What surrounds every call, in one order. See `CallInterceptor`."""

from collections.abc import Mapping, Sequence
from typing import Any

from configsvc.app.changelog.tail import LogTail
from configsvc.rpc.context import ServerContext
from configsvc.rpc.engine.messages import serialized
from configsvc.rpc.engine.port import EngineMethod, QuickRead
from configsvc.rpc.interceptors.access_log import AccessLog
from configsvc.rpc.interceptors.call import Call, Handler, Method, Middleware
from configsvc.rpc.interceptors.consistency import Consistency
from configsvc.rpc.interceptors.deadlines import LibraryStreams, deadline
from configsvc.rpc.interceptors.errors import errors_to_status
from configsvc.rpc.interceptors.messages import (
    deserialization,
    stream_handler,
    unary_handler,
    unary_response,
)

NO_QUICK_READS: Mapping[str, QuickRead] = {}


class CallInterceptor:
    """Wraps every method of every service in its middleware, the outermost first. A `Call` begins with a request id.

    The method of a path in `quick_reads` is asked there first, without its middleware.
    """

    def __init__(
        self,
        *,
        tail: LogTail,
        default_deadline_seconds: float,
        access_log: AccessLog,
        quick_reads: Mapping[str, QuickRead] = NO_QUICK_READS,
    ) -> None:
        consistency = Consistency(tail)
        self._staleness = consistency.staleness
        self._library_streams = LibraryStreams()
        self._unary: Sequence[Middleware] = (
            errors_to_status(self._staleness),
            access_log.unary,
            unary_response(self._staleness),
            deadline(default_deadline_seconds),
            deserialization,
            consistency,
        )
        # Streams have no deadline. Watches check the history and wait for revisions themselves.
        self._stream: Sequence[Middleware] = (
            errors_to_status(self._staleness),
            access_log.stream,
            self._library_streams,
            deserialization,
        )
        self._quick_reads = quick_reads

    def end_streams(self) -> None:
        """Ends the streams that would last until the server's grace period is over."""
        self._library_streams.end()

    def surround(self, path: str, handler: Any) -> EngineMethod:
        """A method of a servicer (`grpc.RpcMethodHandler`) with its middleware."""
        method = Method(path, handler.request_deserializer, handler.request_streaming)
        if not handler.response_streaming:
            unary = _surround(method, self._unary, unary_handler(handler.unary_unary))

            async def run(received: bytes, context: ServerContext) -> bytes:
                return serialized(await unary(received, context))

            return EngineMethod(path, run, quick_read=self._quick_reads.get(path))
        servicer = handler.stream_stream if handler.request_streaming else handler.unary_stream
        stream = _surround(method, self._stream, stream_handler(servicer, self._staleness))
        return EngineMethod(path, stream, has_request_stream=handler.request_streaming, has_response_stream=True)


def _surround(method: Method, middleware: Sequence[Middleware], handler: Handler) -> Any:
    for one in reversed(middleware):
        handler = one(method, handler)
    surrounded = handler

    async def run(received: Any, context: ServerContext) -> Any:
        return await surrounded(Call(method, context), received)

    return run
