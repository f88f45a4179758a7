"""What surrounds every call, in one order. See `CallInterceptor`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from configsvc.app.changelog.tail import LogTail
from configsvc.rpc.context import ServerContext
from configsvc.rpc.interceptors.access_log import AccessLog, log_unknown_method
from configsvc.rpc.interceptors.call import Call, Handler, Method, Middleware
from configsvc.rpc.interceptors.consistency import Consistency
from configsvc.rpc.interceptors.deadlines import LibraryStreams, deadline
from configsvc.rpc.interceptors.errors import errors_to_status
from configsvc.rpc.interceptors.messages import (
    deserialization,
    serialized,
    stream_handler,
    unary_handler,
    unary_response,
)
from configsvc.rpc.quick_reads import QuickRead


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service in its middleware, the outermost first. A `Call` begins with a request id."""

    def __init__(
        self,
        *,
        tail: LogTail,
        default_deadline_seconds: float,
        access_log: AccessLog,
        quick_reads: Callable[[str], QuickRead | None] = lambda _path: None,
    ) -> None:
        consistency = Consistency(tail)
        self._staleness = consistency.staleness
        self._quick_reads = quick_reads
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
        # By path: the handler of gRPC, and the same with its middleware.
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def end_streams(self) -> None:
        """Ends the streams that would last until the server's grace period is over."""
        self._library_streams.end()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of a call. gRPC asks for it at each call; None if no service has the method."""
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None:
            log_unknown_method(path)
            return None
        inner, wrapped = self._wrapped.get(path, (None, None))
        if inner is not handler:
            wrapped = self._wrap(path, handler)
            self._wrapped[path] = (handler, wrapped)
        return wrapped

    def _wrap(self, path: str, handler: Any) -> Any:
        method = Method(path, handler.request_deserializer, handler.request_streaming)
        # gRPC hands over bytes: there is no deserializer here (see `deserialization`).
        if not handler.response_streaming:
            run = _surround(method, self._unary, unary_handler(handler.unary_unary))
            if (quick_read := self._quick_reads(path)) is not None:
                run = _quick_first(quick_read, run)
            return grpc.unary_unary_rpc_method_handler(run, response_serializer=serialized)
        if handler.request_streaming:
            run = _surround(method, self._stream, stream_handler(handler.stream_stream, self._staleness))
            return grpc.stream_stream_rpc_method_handler(run, response_serializer=serialized)
        run = _surround(method, self._stream, stream_handler(handler.unary_stream, self._staleness))
        return grpc.unary_stream_rpc_method_handler(run, response_serializer=serialized)


def _quick_first(quick_read: QuickRead, handler: Any) -> Any:
    async def run(received: bytes, context: ServerContext) -> Any:
        answer = quick_read(received, context.invocation_metadata() or ())
        if answer is None:
            return await handler(received, context)
        if answer.details:
            context.set_details(answer.details)
        else:
            context.set_trailing_metadata(answer.trailing_metadata)
        return answer.message

    return run


def _surround(method: Method, middleware: Sequence[Middleware], handler: Handler) -> Any:
    for one in reversed(middleware):
        handler = one(method, handler)
    surrounded = handler

    async def run(received: Any, context: ServerContext) -> Any:
        return await surrounded(Call(method, context), received)

    return run
