"""What every call goes through, unary and stream alike, in this order:

1. request id: taken from the caller or made, and told in the answer; every line logged during the call has it
2. access log: one JSON line a call, without values
3. deadline: a unary call that has none gets one
4. errors: the domain's errors become statuses by the one table; so does a request that can't be read
5. revision: a call that counts on another history of the log (`x-history`) is refused; `min_revision` is waited for, and an answer that is older after all (from a copy, while the store is away)
   is not given; the answer says the applied revision, and whether it may be stale
6. REST: the resource itself for calls from the gateway (`response_body` of google.api.http)

A stream's messages are written from here, in the task of its call: when the caller goes away, or the server stops, the
handler is ended in that moment, not when the garbage collector comes by.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.api import annotations_pb2
from google.protobuf.message import DecodeError

from configsvc.app.changelog.tail import LogTail
from configsvc.errors import DeadlineExceeded, InvalidInput, Unavailable
from configsvc.logs import REQUEST_ID
from configsvc.rpc.context import ServerContext
from configsvc.rpc.requests import request_metadata
from configsvc.rpc.responses import response_metadata
from configsvc.rpc.services import SERVICES
from configsvc.rpc.status import abort, code_of, reason_of

logger = logging.getLogger("access")

Behaviour = Callable[[Any, ServerContext], Any]

# What is left of the deadline for the read itself, once a min_revision was waited for.
READ_SECONDS = 0.1
# Watches and health checks come every second from every balancer; they are not what the log is for.
QUIET = ("/grpc.health.v1.", "/configsvc.v1.HealthService/")
# The libraries' own services (health, reflection). Their streams don't know of this server's stop.
LIBRARY = "/grpc."


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service."""

    def __init__(self, *, tail: LogTail, default_deadline_seconds: float) -> None:
        self._tail = tail
        self._default_deadline_seconds = default_deadline_seconds
        self._resource_fields = _resource_fields()
        self._endless: set[asyncio.Timeout] = set()

    def end_streams(self) -> None:
        """Ends the streams that would outlast the server's grace. The service's own end by themselves."""
        for scope in self._endless:
            if not scope.expired():
                scope.reschedule(0)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            logger.info("call", extra={"method": method, "code": grpc.StatusCode.UNIMPLEMENTED.name})
            return handler
        decode = handler.request_deserializer
        # Without a deserializer: what can't be read is refused by the one table, too.
        shape: dict[str, Any] = {"response_serializer": _serialized}
        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary, decode), **shape)
        if handler.request_streaming:
            streams = self._stream(method, handler.stream_stream, lambda requests: _decoded(decode, requests))
            return grpc.stream_stream_rpc_method_handler(streams, **shape)
        stream = self._stream(method, handler.unary_stream, lambda request: _request(decode, request))
        return grpc.unary_stream_rpc_method_handler(stream, **shape)

    def _unary(self, method: str, inner: Behaviour, decode: Callable[[bytes], Any]) -> Behaviour:
        field = self._resource_fields.get(method, "")

        async def run(received: bytes, context: ServerContext) -> Any:
            answer: list[tuple[str, str]] = []
            response_metadata.RESPONSE_METADATA.set(answer)
            line = _Line(method, context)
            left = context.time_remaining()
            seconds = self._default_deadline_seconds if left is None else left
            scope = asyncio.timeout(seconds)
            try:
                async with scope:
                    request = _request(decode, received)
                    await self._check_history(method, context)
                    await self._reach(request, seconds)
                    response = await inner(request, context)
                    _check_reached(request, response)
            except asyncio.CancelledError:
                line.write(_cancelled(context))
                raise
            except grpc.aio.AbortError:
                line.write(_aborted(context))
                raise
            except Exception as cause:
                error = (
                    DeadlineExceeded(f"not done within {seconds:g} s; a write may have happened all the same")
                    if scope.expired()
                    else cause
                )
                line.write(code_of(error), reason_of(error))
                await abort(context, error, ("x-request-id", line.identity), *self._view())
            line.write(grpc.StatusCode.OK)
            if request_metadata.is_rest(context):
                # The gateway says the request id by itself.
                context.set_details(response_metadata.status_message((*self._view(), *answer)))
                return getattr(response, field) if field else response
            context.set_trailing_metadata((("x-request-id", line.identity), *self._view(), *answer))
            return response

        return run

    def _stream(self, method: str, inner: Behaviour, decode: Callable[[Any], Any]) -> Behaviour:
        async def run(received: Any, context: ServerContext) -> None:
            response_metadata.RESPONSE_METADATA.set([])
            line = _Line(method, context)
            scope = asyncio.timeout(None)
            if method.startswith(LIBRARY):
                self._endless.add(scope)
            try:
                async with scope:
                    if inspect.iscoroutinefunction(inner):
                        # One that writes by itself, as grpc.health.v1's Watch does.
                        await self._begin(context, line.identity)
                        await inner(decode(received), context)
                    else:
                        await self._write(inner(decode(received), context), context, line)
            except asyncio.CancelledError:
                line.write(_cancelled(context))
                raise
            except grpc.aio.AbortError:
                line.write(_aborted(context))
                raise
            except Exception as cause:
                stopped = Unavailable("this replica is shutting down", "SHUTTING_DOWN")
                error = stopped if scope.expired() else cause
                line.write(code_of(error), reason_of(error))
                # In the trailers: headers would be a 200 for REST callers of a watch that could not begin.
                await abort(context, error, ("x-request-id", line.identity), *self._view())
            finally:
                self._endless.discard(scope)
            line.write(grpc.StatusCode.OK)

        return run

    async def _write(self, stream: Any, context: ServerContext, line: "_Line") -> None:
        async with aclosing(stream) as messages:
            started = False
            async for message in messages:
                if not started:
                    await self._begin(context, line.identity)
                    started = True
                await context.write(message)

    async def _check_history(self, method: str, context: ServerContext) -> None:
        """Refuses a call that counts on another history of the log (`x-history`)."""
        meant = request_metadata.expected_history(context)
        if not meant or meant == self._tail.history or method.startswith((*QUIET, LIBRARY)):
            return
        # Another replica may have told of a history that this one has not met yet.
        await self._tail.catch_up()
        if meant != self._tail.history:
            raise self._tail.history_changed()

    async def _reach(self, request: Any, seconds: float) -> None:
        wanted = getattr(request, "min_revision", 0)
        if wanted < 0:
            raise InvalidInput.of("min_revision", f"must not be negative; it is {wanted}")
        if wanted > self._tail.applied:
            await self._tail.wait_for(wanted, max(seconds - READ_SECONDS, 0))

    async def _begin(self, context: ServerContext, identity: str) -> None:
        """A stream says at its beginning what a unary answer says at its end."""
        await context.send_initial_metadata((("x-request-id", identity), *self._view()))

    def _view(self) -> tuple[tuple[str, str], ...]:
        """How new this replica's view is."""
        place = (("x-revision", str(self._tail.applied)), ("x-history", self._tail.history))
        if self._tail.stale_since is None:
            return place
        return (*place, ("x-stale", "true"), ("x-stale-since", self._tail.stale_since.isoformat()))


class _Line:
    """A call's line in the access log."""

    def __init__(self, method: str, context: ServerContext) -> None:
        self.identity = request_metadata.request_id(context)
        self._method = method
        # Asked while the call runs: gRPC crashes the process where it is asked for the peer of one that has ended.
        self._caller = {"actor": request_metadata.as_dict(context).get("x-actor", "anonymous"), "peer": context.peer()}
        self._began = time.perf_counter()
        # The call has a task, and so a context, of its own.
        REQUEST_ID.set(self.identity)

    def write(self, code: grpc.StatusCode, reason: str = "") -> None:
        """Writes it, at the call's end. `reason`: of an error."""
        if code is grpc.StatusCode.OK and self._method.startswith(QUIET):
            return
        fields = {
            "method": self._method,
            "code": code.name,
            **({"reason": reason} if reason else {}),
            "duration_ms": round((time.perf_counter() - self._began) * 1000, 2),
            "request_id": self.identity,
            **self._caller,
        }
        logger.info("call", extra=fields)


def _check_reached(request: Any, response: Any) -> None:
    wanted = getattr(request, "min_revision", 0)
    if wanted and response.revision < wanted:
        raise Unavailable(
            f"revision {wanted} is known here only in part, since the store is away; what is left is of {response.revision}",
            "REVISION_NOT_REACHED",
            {"applied": str(response.revision), "required": str(wanted)},
        )


def _request(decode: Callable[[bytes], Any], received: bytes) -> Any:
    try:
        return decode(received)
    except DecodeError as error:
        raise InvalidInput.of(
            "request", "is no message of this method's type, or is nested too deeply", "MALFORMED_REQUEST"
        ) from error


async def _decoded(decode: Callable[[bytes], Any], received: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in received:
        yield _request(decode, message)


def _cancelled(context: ServerContext) -> grpc.StatusCode:
    """The caller has gone, or its deadline has ended the call before this server did."""
    left = context.time_remaining()
    return grpc.StatusCode.CANCELLED if left is None or left > 0 else grpc.StatusCode.DEADLINE_EXCEEDED


def _aborted(context: ServerContext) -> grpc.StatusCode:
    """A handler of a library has ended the call by itself."""
    code: Any = context.code()
    return next(
        (known for known in grpc.StatusCode if known is code or known.value[0] == code), grpc.StatusCode.UNKNOWN
    )


def _serialized(message: Any) -> bytes:
    """Watches encode a change once for all who see it, and hand over bytes."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _resource_fields() -> dict[str, str]:
    """The field that REST shows, for each method that has one."""
    fields = {}
    for service in SERVICES:
        for method in service.descriptor.methods:
            field = method.GetOptions().Extensions[annotations_pb2.http].response_body
            if field:
                fields[f"/{service.descriptor.full_name}/{method.name}"] = field
    return fields
