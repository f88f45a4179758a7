"""The port of gRPC engines: what moves calls between the network and the methods of this server.

An engine owns the connections, HTTP/2, the framing and compression of messages, deadlines and cancellation. It knows
nothing of services: a method is a path and a function of the request's bytes. Both engines must behave alike to callers;
docs/decisions/0011-two-grpc-engines.md lists where they differ.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from configsvc.rpc.context import ServerContext

# As an engine has it: names in lower case, and a name may come several times.
RequestMetadata = Iterable[tuple[str, str | bytes]]


class QuickAnswer(Protocol):
    """A successful answer that was found without the general path of a call."""

    @property
    def message(self) -> bytes:
        """The message."""
        ...

    @property
    def trailing_metadata(self) -> Sequence[tuple[str, str]]:
        """The metadata that the answer ends with."""
        ...

    @property
    def details(self) -> str:
        """The message of the OK status, which only a call over REST has (`response_metadata.status_message`)."""
        ...


# Answers a unary call from memory, at once; None: `EngineMethod.run` must answer. It never raises.
QuickRead = Callable[[bytes, RequestMetadata], QuickAnswer | None]


@dataclass(frozen=True, slots=True)
class EngineMethod:
    """A method with all that surrounds it. `path` is `/configsvc.v1.ConfigService/GetConfig`.

    `run` gets the bytes of the request, or an iterator of them if the method has a stream of requests. The engine runs it
    in a task of its own for each call, and cancels that if the caller leaves or its deadline passes. For a unary method
    `run` returns the bytes of the answer. A stream writes its messages to the context.
    """

    path: str
    run: Callable[[Any, ServerContext], Awaitable[Any]]
    has_request_stream: bool = False
    has_response_stream: bool = False
    quick_read: QuickRead | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is told besides its methods.

    A request message of more than `max_request_bytes`, decompressed, is refused with RESOURCE_EXHAUSTED before `run` is
    called. `on_unknown_method` hears of each call of a path that no method has; the caller gets UNIMPLEMENTED.
    """

    max_request_bytes: int
    on_unknown_method: Callable[[str], None]


class Engine(Protocol):
    """Serves methods at addresses, from `start` until `stop`."""

    @property
    def kind(self) -> str:
        """The value of GRPC_ENGINE that chooses it."""
        ...

    async def start(self, methods: Sequence[EngineMethod], listen: Sequence[str]) -> list[int]:
        """Begins to serve, and returns the port of each address; some number for a unix socket.

        Raises RuntimeError if an address can't be listened to.
        """
        ...

    async def stop(self, grace_seconds: float) -> None:
        """Returns when no call runs; those left after the grace are cancelled. Then nothing listens any more.

        Calls that come meanwhile are refused, or answered as before.
        """
        ...
