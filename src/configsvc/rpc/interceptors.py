"""What every call goes through, unary and stream alike, in this order:

1. request id: taken from the caller or made, and told in the answer
2. access log: one JSON line a call, without values
3. deadline: a unary call that has none gets one
4. errors: the domain's errors become statuses by the one table
5. revision: `min_revision` is waited for; the answer says the applied revision, and whether it may be stale
6. REST: the resource itself for calls from the gateway (`response_body` of google.api.http)
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog
from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2, health_pb2, registry_pb2
from google.api import annotations_pb2

from configsvc.app.tail import LogTail
from configsvc.errors import InvalidInput, TooLate
from configsvc.rpc import call, reading
from configsvc.rpc.status import abort

logger = structlog.get_logger("access")

Behaviour = Callable[[Any, call.Context], Any]

# What is left of the deadline for the read itself, once a min_revision was waited for.
READ_SECONDS = 0.1
# Watches and health checks come every second from every balancer; they are not what the log is for.
QUIET = ("/grpc.health.v1.", "/configsvc.v1.HealthService/")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of every service."""

    def __init__(self, *, tail: LogTail, default_deadline_seconds: float) -> None:
        self._tail = tail
        self._default_deadline_seconds = default_deadline_seconds
        self._resource_fields = _resource_fields()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        shape: dict[str, Any] = {
            "request_deserializer": reading.deserializer(handler.request_deserializer),
            "response_serializer": _serialized,
        }
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            read = reading.each_readable if handler.request_streaming else reading.readable
            return make(self._stream(method, inner, read), **shape)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **shape)

    def _unary(self, method: str, inner: Behaviour) -> Behaviour:
        field = self._resource_fields.get(method, "")

        async def run(request: Any, context: call.Context) -> Any:
            answer: list[tuple[str, str]] = []
            call.ANSWER.set(answer)
            identity, began, caller = call.request_id(context), time.perf_counter(), _caller(context)
            left = context.time_remaining()
            seconds = self._default_deadline_seconds if left is None else left
            try:
                async with asyncio.timeout(seconds):
                    await self._reach(reading.readable(request), seconds)
                    response = await inner(request, context)
            except TimeoutError:
                await self._begin(context, identity, [])
                self._log(method, "DEADLINE_EXCEEDED", began, identity, caller)
                await abort(context, TooLate(f"not done within {seconds:g} s; a write may have happened all the same"))
            except asyncio.CancelledError:
                self._log(method, "CANCELLED", began, identity, caller)
                raise
            except grpc.aio.AbortError:
                self._log(method, "ABORTED", began, identity, caller)
                raise
            except Exception as error:
                await self._begin(context, identity, [])
                self._log(method, type(error).__name__, began, identity, caller)
                await abort(context, error)
            await self._begin(context, identity, answer)
            self._log(method, "OK", began, identity, caller)
            if field and call.metadata_of(context).get("x-configsvc-rest") == "1":
                return getattr(response, field)
            return response

        return run

    def _stream(self, method: str, inner: Behaviour, read: Callable[[Any], Any]) -> Behaviour:
        async def run(request: Any, context: call.Context) -> AsyncIterator[Any]:
            call.ANSWER.set([])
            identity, began, caller = call.request_id(context), time.perf_counter(), _caller(context)
            code = "OK"
            try:
                started = False
                async with aclosing(inner(read(request), context)) as messages:
                    async for message in messages:
                        if not started:
                            await self._begin(context, identity, [])
                            started = True
                        yield message
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                raise
            except grpc.aio.AbortError:
                code = "ABORTED"
                raise
            except Exception as error:
                code = type(error).__name__
                await abort(context, error)
            finally:
                self._log(method, code, began, identity, caller)

        return run

    async def _reach(self, request: Any, seconds: float) -> None:
        wanted = getattr(request, "min_revision", 0)
        if wanted < 0:
            raise InvalidInput.of("min_revision", f"must not be negative; it is {wanted}")
        if wanted > self._tail.applied:
            await self._tail.wait_for(wanted, max(seconds - READ_SECONDS, 0))

    async def _begin(self, context: call.Context, identity: str, answer: list[tuple[str, str]]) -> None:
        own = [("x-request-id", identity), ("x-revision", str(self._tail.applied))]
        if self._tail.stale_since is not None:
            own += [("x-stale", "true"), ("x-stale-since", self._tail.stale_since.isoformat())]
        await context.send_initial_metadata((*own, *answer))

    def _log(self, method: str, code: str, began: float, identity: str, caller: dict[str, str]) -> None:
        if code == "OK" and method.startswith(QUIET):
            return
        logger.info(
            "call",
            method=method,
            code=code,
            duration_ms=round((time.perf_counter() - began) * 1000, 2),
            request_id=identity,
            **caller,
        )


def _caller(context: call.Context) -> dict[str, str]:
    """Who calls, for the log. To be asked while the call runs: of one that has ended gRPC crashes the process."""
    return {"actor": call.metadata_of(context).get("x-actor", "anonymous"), "peer": context.peer()}


def _serialized(message: Any) -> bytes:
    """Watches encode a change once for all who see it, and hand over bytes."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _resource_fields() -> dict[str, str]:
    """The field that REST shows, for each method that has one."""
    found = {}
    for module in (config_pb2, flag_pb2, registry_pb2, change_pb2, health_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                body = method.GetOptions().Extensions[annotations_pb2.http].response_body
                if body:
                    found[f"/{service.full_name}/{method.name}"] = body
    return found
