"""From bytes to messages and back: the request, the response with its metadata, the messages of a stream."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from google.api import annotations_pb2
from google.protobuf.message import DecodeError

from configsvc.errors import InvalidInput
from configsvc.rpc.context import ServerContext, TextMetadata
from configsvc.rpc.interceptors.call import Call, Handler, Method, Middleware
from configsvc.rpc.requests import request_metadata
from configsvc.rpc.responses.response_metadata import status_message
from configsvc.rpc.services import SERVICES

# What gRPC calls to answer a call: a method of a servicer.
Servicer = Callable[[Any, ServerContext], Any]


def deserialization(method: Method, handler: Handler) -> Handler:
    """Reads the request. A malformed one fails with an error of this service, not with gRPC's own."""

    def run(call: Call, received: Any) -> Any:
        read = _read_stream if method.has_request_stream else _read
        return handler(call, read(method, received))

    return run


def unary_response(staleness: Callable[[], TextMetadata]) -> Middleware:
    """Adds the metadata of a response. A call over REST gets the resource alone (`response_body` of google.api.http)."""

    def middleware(method: Method, handler: Handler) -> Handler:
        resource_field = RESOURCE_FIELDS.get(method.path, "")

        async def run(call: Call, request: object) -> object:
            response = await handler(call, request)
            metadata = (*staleness(), *call.response_metadata)
            if request_metadata.is_rest(call.request_metadata):
                # The gateway adds the request id.
                call.context.set_details(status_message(metadata))
                return getattr(response, resource_field) if resource_field else response
            call.context.set_trailing_metadata((("x-request-id", call.request_id), *metadata))
            return response

        return run

    return middleware


def unary_handler(servicer: Servicer) -> Handler:
    """The innermost handler of a unary call."""
    return lambda call, request: servicer(request, call.context)


def stream_handler(servicer: Servicer, staleness: Callable[[], TextMetadata]) -> Handler:
    """The innermost handler of a stream. It writes the messages in the task of the call.

    So the servicer's generator is closed as soon as the caller leaves or the server stops, and not by the garbage
    collector. The metadata is sent before the first message; if the stream fails before that, only the trailers have it.
    """

    async def begin(call: Call) -> None:
        await call.context.send_initial_metadata((("x-request-id", call.request_id), *staleness()))

    async def write_itself(call: Call, request: object) -> None:
        await begin(call)
        await servicer(request, call.context)

    async def write(call: Call, request: object) -> None:
        has_begun = False
        async with aclosing(servicer(request, call.context)) as messages:
            async for message in messages:
                if not has_begun:
                    await begin(call)
                    has_begun = True
                await call.context.write(message)

    # The Watch of grpc.health.v1 is a coroutine that calls `context.write`.
    return write_itself if inspect.iscoroutinefunction(servicer) else write


def _read(method: Method, received: bytes) -> Any:
    try:
        return method.deserialize(received)
    except DecodeError as error:
        raise InvalidInput.of(
            "request", "is not a message of this method's type, or is nested too deeply", "MALFORMED_REQUEST"
        ) from error


async def _read_stream(method: Method, received: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in received:
        yield _read(method, message)


def _resource_fields() -> dict[str, str]:
    """The field that REST shows, by the path of the method, for each method that has one."""
    fields = {}
    for service in SERVICES:
        for method in service.descriptor.methods:
            field = method.GetOptions().Extensions[annotations_pb2.http].response_body
            if field:
                fields[f"/{service.descriptor.full_name}/{method.name}"] = field
    return fields


RESOURCE_FIELDS = _resource_fields()
