"""A call of the library pygrpc-native as a `ServerContext`."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, NoReturn

import grpc
from pygrpc_native import STREAM_CLOSED, STREAM_SENT, NativeGrpcFront

from configsvc.rpc.context import Metadata
from configsvc.rpc.engine.messages import MAX_SEND_BYTES, serialized

# A stream takes one message until a thread of the library has taken that over, and the library does not say when it has
# room again. So a message that must wait is tried again: soon at first, since most callers read, and that thread needs less
# than a millisecond.
PROMPT_TRIES = 5
FIRST_PAUSE_SECONDS = 0.000_2
LONGEST_PAUSE_SECONDS = 0.1


class NativeCall:
    """One call, in the task that answers it. `received_at` is when `time_remaining` held (`time.monotonic`)."""

    __slots__ = (
        "_code",
        "_deadline",
        "_front",
        "_is_waiting",
        "_metadata",
        "_peer",
        "details",
        "is_cancelled",
        "number",
        "task",
        "trailing_metadata",
    )

    def __init__(
        self,
        front: NativeGrpcFront,
        number: int,
        metadata: tuple[tuple[str, str | bytes], ...],
        peer: str,
        time_remaining: float | None,
        received_at: float,
    ) -> None:
        self._front = front
        self.number = number
        self._metadata = metadata
        self._peer = peer
        self._deadline = None if time_remaining is None else received_at + time_remaining
        self._code = grpc.StatusCode.OK
        self._is_waiting = False
        self.details = ""
        self.trailing_metadata: list[tuple[str, str | bytes]] | None = None
        # Whether the caller has left, or its deadline has passed: nobody waits for the answer.
        self.is_cancelled = False
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Ends the call: nobody waits for the answer."""
        self.is_cancelled = True
        if self.task is not None:
            self.task.cancel()

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """See `CallContext`."""
        return self._metadata

    def peer(self) -> str:
        """See `CallContext`."""
        return self._peer

    def time_remaining(self) -> float | None:
        """See `ServerContext`."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def code(self) -> grpc.StatusCode:
        """See `ServerContext`."""
        return self._code

    def set_details(self, details: str) -> None:
        """See `ServerContext`."""
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """See `ServerContext`."""
        self.trailing_metadata = list(trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """See `ServerContext`."""
        self._front.stream_send_initial_metadata(self.number, list(initial_metadata))

    async def write(self, message: Any) -> None:
        """See `ServerContext`."""
        encoded = serialized(message)
        if len(encoded) > MAX_SEND_BYTES:
            text = f"SERVER: Sent message larger than max ({len(encoded)} vs. {MAX_SEND_BYTES})"
            await self.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        sent = self._front.stream_try_send(self.number, encoded)
        if sent == STREAM_SENT:
            return
        self._is_waiting = True
        tries, pause = 0, FIRST_PAUSE_SECONDS
        try:
            while sent != STREAM_SENT:
                if sent == STREAM_CLOSED:
                    # The event that cancels the call is on its way.
                    self.is_cancelled = True
                    raise asyncio.CancelledError
                tries += 1
                if tries <= PROMPT_TRIES:
                    await asyncio.sleep(0)
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                sent = self._front.stream_try_send(self.number, encoded)
        finally:
            self._is_waiting = False

    def try_write(self, message: bytes) -> bool:
        """See `ServerContext`."""
        if self._is_waiting:
            return False
        sent: bool = self._front.stream_try_send(self.number, message) == STREAM_SENT
        return sent

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """See `ServerContext`."""
        self._code, self.details = code, details
        if trailing_metadata:
            self.trailing_metadata = list(trailing_metadata)
        raise grpc.aio.AbortError("the call has ended with an error")
