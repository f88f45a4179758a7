"""A call as this service sees it: what it uses of grpc.aio.ServicerContext, as types. Each engine has its own.

grpc.aio's own class is generic in its stubs only, and the generated servicers name a context that is both synchronous and
asynchronous. A servicer takes a `CallContext`; only the interceptors write to the call, through a `ServerContext`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Protocol, cast

import grpc

# As gRPC takes it, and as this service makes it.
Metadata = Sequence[tuple[str, str | bytes]]
TextMetadata = Sequence[tuple[str, str]]

# gRPC allows spaces, too, but an answer to REST separates its metadata by them (`response_metadata.status_message`).
_METADATA_VALUE = re.compile(r"[!-~]+")


def is_metadata_value(text: str) -> bool:
    """Whether an answer's metadata can carry this text."""
    return _METADATA_VALUE.fullmatch(text) is not None


class CallContext(Protocol):
    """What a servicer may ask of the call that it answers."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The metadata that the caller sent, names in lower case. A name may come several times."""

    def peer(self) -> str:
        """The caller's address. Ask while the call runs: gRPC crashes the process if the call has ended."""


class ServerContext(CallContext, Protocol):
    """The whole call, as the interceptors see it."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if the caller set none."""

    def code(self) -> grpc.StatusCode | int:
        """The status that the call has been ended with. grpc.aio gives a number after `abort`."""

    def set_details(self, details: str) -> None:
        """Sets the message of the status, which an OK answer may have, too."""

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Replaces the metadata that the answer ends with."""

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Sends the metadata that a stream begins with; once a call."""

    async def write(self, message: Any) -> None:
        """Sends one message of a stream. Returns when the stream has taken it."""

    def try_write(self, message: bytes) -> bool:
        """Sends one message of a stream at once, if it has room; False: the message is not sent, and `write` must wait.

        Only from the event loop, and after `send_initial_metadata`. False, too, while a `write` of this call waits.
        """
        ...

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with an error: raises grpc.aio.AbortError."""
        raise NotImplementedError


def direct_write(context: CallContext) -> Callable[[bytes], bool]:
    """`ServerContext.try_write` of a servicer's call: each engine makes a whole `ServerContext`.

    The generated servicers name grpc.aio's context, which has no such method.
    """
    return cast(ServerContext, context).try_write
