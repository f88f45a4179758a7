"""The messages of a stream, read in a thread."""

import threading
from typing import Any, Self

import grpc

from tests.rpc.refusals import Refusal, refusal
from tests.rpc.server_process import PATIENCE_SECONDS


class ResponseStream:
    """A stream that a test reads step by step. The thread reads ahead, so flow control never stops the server."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self._messages: list[Any] = []
        self._taken_count = 0
        self._error: Any = None
        self._changed = threading.Condition()
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call.cancel()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        try:
            for message in self.call:
                with self._changed:
                    self._messages.append(message)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            self._error = error
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def take(self) -> Any:
        """The next message. Fails if the stream ends, or if no message comes in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or len(self._messages) > self._taken_count, PATIENCE_SECONDS)
            assert len(self._messages) > self._taken_count, f"no message came: {self._error}"
            self._taken_count += 1
            return self._messages[self._taken_count - 1]

    def take_until(self, name: str) -> list[Any]:
        """The next messages, up to and including the first one with this field."""
        messages = [self.take()]
        while not messages[-1].HasField(name):
            messages.append(self.take())
        return messages

    def end(self) -> tuple[list[Any], Refusal | None]:
        """The messages until the stream ends, and its error (None: the stream ended well)."""
        self._thread.join(PATIENCE_SECONDS)
        assert self._has_ended, "the stream has not ended"
        rest = self._messages[self._taken_count :]
        return rest, refusal(self._error) if self._error is not None else None
