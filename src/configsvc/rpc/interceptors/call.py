"""A call on its way through the middleware."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from configsvc.logs import REQUEST_ID
from configsvc.rpc.context import ServerContext
from configsvc.rpc.requests import request_metadata
from configsvc.rpc.responses.response_metadata import RESPONSE_METADATA

# Services of gRPC's own libraries: health and reflection.
LIBRARY_SERVICES = "/grpc."
# Load balancers call these every second.
HEALTH_SERVICES = ("/grpc.health.v1.", "/configsvc.v1.HealthService/")


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service. `path` is `/configsvc.v1.ConfigService/GetConfig`."""

    path: str
    deserialize: Callable[[bytes], Any]
    has_request_stream: bool


class Call:
    """One call. Its request id is in every line that is logged until the call ends."""

    __slots__ = (
        "context",
        "method",
        "peer",
        "request_id",
        "request_metadata",
        "response_metadata",
        "started",
        "timeout_seconds",
    )

    def __init__(self, method: Method, context: ServerContext) -> None:
        self.started = time.perf_counter()
        self.method = method
        self.context = context
        self.peer = context.peer()
        self.request_metadata = request_metadata.as_dict(context)
        # What the servicer adds with `add_metadata`.
        self.response_metadata: list[tuple[str, str]] = []
        self.request_id = request_metadata.request_id(self.request_metadata)
        # Of a unary call: what the caller's deadline, or the default one, left at its start.
        self.timeout_seconds = 0.0
        # gRPC runs each call in a task of its own, so these context variables belong to this call alone.
        RESPONSE_METADATA.set(self.response_metadata)
        REQUEST_ID.set(self.request_id)


# Answers a call. It returns the response of a unary call, and writes the messages of a stream itself.
Handler = Callable[[Call, Any], Awaitable[Any]]


class Middleware(Protocol):
    """One concern of every call."""

    def __call__(self, method: Method, handler: Handler) -> Handler:
        """`handler` with this concern around it. Called once a method, not once a call."""
        ...
