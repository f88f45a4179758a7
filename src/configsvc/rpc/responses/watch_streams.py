"""The events of a watch as messages, each small enough for every client (`message_budget`).

A part of a snapshot that is too large becomes several parts. A change that is too large goes without the state before it.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from configsvc_client.v1 import watch_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

from configsvc.app.watch.events import Changed, Progress, Snapshot, Synced
from configsvc.app.watch.selector import Selector
from configsvc.app.watch.watcher import SendNow
from configsvc.domain.records import Change, Record
from configsvc.rpc.convert.message_budget import Detail, MessageBudget
from configsvc.rpc.offload import offload_items
from configsvc.rpc.responses.encoded_changes import EncodedChanges
from configsvc.rpc.status import status_of

logger = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Message)
# Writes an encoded message to the client; false if it has to wait for room (`ServerContext.try_write`).
TryWrite = Callable[[bytes], bool]


class EventSource(Protocol):
    """Where the events of a watch come from: the hub, or a source that adds events to the hub's."""

    @property
    def history(self) -> str:
        """The history of the log that the revisions of events belong to."""
        ...

    def watch(
        self, selector: Selector, after_revision: int | None, history: str = "", *, send_now: SendNow | None = None
    ) -> AsyncGenerator[Any, None]:
        """The events of one watch, as `WatchHub.watch` gives them."""
        ...


class WatchResponse(Protocol):
    """The type of a watch's messages."""

    def __call__(
        self,
        *,
        snapshot: Any = ...,
        synced: watch_pb2.Synced | None = ...,
        progress: watch_pb2.Progress | None = ...,
        error: status_pb2.Status | None = ...,
    ) -> Message: ...


class _Latest:
    """The event that was sent last past a stream, and its message."""

    __slots__ = ("event", "message")

    def __init__(self) -> None:
        self.event: Changed | Progress | None = None
        self.message = b""


class WatchStreams(Generic[Item]):
    """The watches of one service.

    `response` is the type of its messages. `item`, `snapshot` and `change` make the contents of a message from a record,
    from items, and from a change. `extra_messages` makes the messages of an event that only this service has.
    """

    def __init__(
        self,
        source: EventSource,
        *,
        response: WatchResponse,
        snapshot: Callable[[Sequence[Item]], Message],
        item: Callable[[Record, Detail], Item],
        change: Callable[[Change, Detail], Message],
        extra_messages: Callable[[Any], Iterable[Message]] = lambda _: (),
    ) -> None:
        self._source = source
        self._response = response
        self._snapshot = snapshot
        self._item = item
        self._encoded_changes = EncodedChanges(change)
        self._extra_messages = extra_messages
        # While an event is sent to all of its watchers, they ask for nothing else. Idle watchers get one progress together.
        self._latest = _Latest()
        self._latest_progress: tuple[tuple[int, str], bytes] = ((-1, ""), b"")

    async def stream(
        self, selector: Selector, after_revision: int | None, history: str = "", try_write: TryWrite | None = None
    ) -> AsyncGenerator[Any, None]:
        """The messages of one watch; a change is bytes, serialized already.

        With `try_write` most changes don't come here: while the caller waits for the next message, they are written by
        `try_write` as long as that returns true. So the caller writes each message before it asks for the next.

        An error after the first event is also sent as a message, since the end of an HTTP/1.1 stream can't carry it.
        """
        has_begun = False
        try:
            send_now = None if try_write is None else self._sender(try_write)
            async with aclosing(self._source.watch(selector, after_revision, history, send_now=send_now)) as events:
                async for event in events:
                    has_begun = True
                    match event:
                        case Changed():
                            yield await self._encoded_changes.get(event)
                        case Snapshot(records):
                            async with aclosing(self._snapshot_parts(records)) as parts:
                                async for part in parts:
                                    yield part
                        case Synced(revision):
                            synced = watch_pb2.Synced(revision=revision, history=self._source.history)
                            yield self._response(synced=synced)
                        case Progress(revision):
                            yield self._encoded_progress(revision)
                        case _:
                            for message in self._extra_messages(event):
                                yield message
        except Exception as error:
            if has_begun:
                yield self._response(error=status_of(error))
            raise

    def _sender(self, try_write: TryWrite) -> SendNow:
        """Sends an event past its stream. False if there is no room, or the message takes long to make, or fails."""
        latest = self._latest

        # A closure costs less than a partial method, and one change calls thousands of them.
        def send_now(event: Changed | Progress) -> bool:
            try:
                if event is not latest.event and not self._encode_now(event):
                    return False
                return try_write(latest.message)
            except Exception:
                # It fails in `stream` again, which ends that watch with the error.
                logger.debug("an event could not be sent past its stream", exc_info=True)
                return False

        return send_now

    def _encode_now(self, event: Changed | Progress) -> bool:
        """Makes the event the latest one. False if its message takes long to make."""
        if isinstance(event, Progress):
            message: bytes | None = self._encoded_progress(event.revision)
        else:
            message = self._encoded_changes.get_now(event)
        if message is None:
            return False
        self._latest.event, self._latest.message = event, message
        return True

    def _encoded_progress(self, revision: int) -> bytes:
        progress = (revision, self._source.history)
        if self._latest_progress[0] != progress:
            message = self._response(progress=watch_pb2.Progress(revision=revision, history=self._source.history))
            self._latest_progress = progress, message.SerializeToString()
        return self._latest_progress[1]

    async def _snapshot_parts(self, records: Sequence[Record]) -> AsyncGenerator[Message, None]:
        while records:
            items = await offload_items(records, partial(MessageBudget().fill, self._item, records))
            yield self._response(snapshot=self._snapshot(items))
            records = records[len(items) :]
