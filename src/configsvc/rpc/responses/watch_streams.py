"""The events of a watch as messages, each small enough for every client (`message_budget`).

A part of a snapshot that is too large becomes several parts. A change that is too large goes without the state before it.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from configsvc_client.v1 import watch_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

from configsvc.app.watch.events import Changed, Progress, Snapshot, Synced
from configsvc.app.watch.selector import Selector
from configsvc.domain.records import Change, Record
from configsvc.rpc.convert.message_budget import Detail, MessageBudget
from configsvc.rpc.offload import offload_items
from configsvc.rpc.responses.encoded_changes import EncodedChanges
from configsvc.rpc.status import status_of

Item = TypeVar("Item", bound=Message)


class EventSource(Protocol):
    """Where the events of a watch come from: the hub, or a source that adds events to the hub's."""

    @property
    def history(self) -> str:
        """The history of the log that the revisions of events belong to."""
        ...

    def watch(self, selector: Selector, after_revision: int | None, history: str = "") -> AsyncGenerator[Any, None]:
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

    async def stream(
        self, selector: Selector, after_revision: int | None, history: str = ""
    ) -> AsyncGenerator[Any, None]:
        """The messages of one watch; a change is bytes, serialized already.

        An error after the first event is also sent as a message, since the end of an HTTP/1.1 stream can't carry it.
        """
        has_begun = False
        try:
            async with aclosing(self._source.watch(selector, after_revision, history)) as events:
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
                            progress = watch_pb2.Progress(revision=revision, history=self._source.history)
                            yield self._response(progress=progress)
                        case _:
                            for message in self._extra_messages(event):
                                yield message
        except Exception as error:
            if has_begun:
                yield self._response(error=status_of(error))
            raise

    async def _snapshot_parts(self, records: Sequence[Record]) -> AsyncGenerator[Message, None]:
        while records:
            items = await offload_items(records, partial(MessageBudget().fill, self._item, records))
            yield self._response(snapshot=self._snapshot(items))
            records = records[len(items) :]
