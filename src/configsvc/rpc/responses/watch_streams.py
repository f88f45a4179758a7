"""A watch's events as messages, each small enough for every client (`room`).

A part of a snapshot that is too large becomes several. A change that is too large goes without what was before, and is
encoded once, for all who watch it on this replica.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from configsvc_client.v1 import watch_pb2

from configsvc.app.watch.watcher import Changed, Progress, Selector, Snapshot, Synced
from configsvc.domain.records import Change, Record
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.rpc.offload import LARGE_BYTES, offload, offload_items
from configsvc.rpc.responses.message_budget import Detail, MessageBudget
from configsvc.rpc.status import status_of

# Encoded changes kept: enough for all watchers that are live, who are never far apart. A change can have megabytes (a
# value before and after), so their bytes are bounded, too.
ENCODED_CHANGES, ENCODED_BYTES = 4_096, 16 << 20


class Watched(Protocol):
    """The hub, or what tells more beside it."""

    @property
    def history(self) -> str:
        """See `WatchHub.history`."""
        ...

    def watch(self, selector: Selector, after_revision: int | None, history: str = "") -> AsyncGenerator[Any, None]:
        """See `WatchHub.watch`."""
        ...


class WatchStreams:
    """Streams of one service. `response` is its watch's message type; `snapshot` makes a part of one of its items.

    `other` makes the messages of an event that this service alone has.
    """

    def __init__(
        self,
        hub: Watched,
        *,
        response: type[Any],
        snapshot: Callable[[Sequence[Any]], Any],
        item: Callable[[Record, Detail], Any],
        change: Callable[[Change, Detail], Any],
        other: Callable[[Any], Iterable[Any]] = lambda _: (),
    ) -> None:
        self._hub = hub
        self._response = response
        self._snapshot = snapshot
        self._item = item
        self._change = change
        self._other = other
        self._encoded: OrderedDict[tuple[int, int, bool], bytes] = OrderedDict()
        self._encoded_bytes = 0
        # Large ones that are being encoded.
        self._encoding: dict[tuple[int, int, bool], asyncio.Future[bytes]] = {}

    async def stream(
        self, selector: Selector, after_revision: int | None, history: str = ""
    ) -> AsyncGenerator[Any, None]:
        """The messages of one watch. An error after the first of them is told in band too, since the end of an HTTP/1.1
        stream can't carry it."""
        began = False
        try:
            async with aclosing(self._hub.watch(selector, after_revision, history)) as events:
                async for event in events:
                    began = True
                    match event:
                        case Changed():
                            yield await self._bytes(event)
                        case Snapshot(records):
                            async with aclosing(self._parts(records)) as parts:
                                async for part in parts:
                                    yield part
                        case Synced(revision):
                            yield self._response(synced=watch_pb2.Synced(revision=revision, history=self._hub.history))
                        case Progress(revision):
                            yield self._response(
                                progress=watch_pb2.Progress(revision=revision, history=self._hub.history)
                            )
                        case _:
                            for message in self._other(event):
                                yield message
        except Exception as error:
            if began:
                yield self._response(error=status_of(error))
            raise

    async def _parts(self, records: Sequence[Record]) -> AsyncGenerator[Any, None]:
        while records:
            items = await offload_items(records, partial(MessageBudget().fill, self._item, records))
            yield self._response(snapshot=self._snapshot(items))
            records = records[len(items) :]

    def _encode(self, event: Changed) -> bytes:
        for detail in Detail:
            message = self._change(event.change, detail)
            message.change.revision_complete = event.completes
            encoded: bytes = message.SerializeToString()
            if len(encoded) <= ANSWER_BYTES:
                break
        return encoded

    async def _bytes(self, event: Changed) -> bytes:
        if (encoded := self._encoded.get(event.identity)) is not None:
            return encoded
        if event.change.held_bytes < LARGE_BYTES:
            return self._remember(event, self._encode(event))
        encoding = self._encoding.get(event.identity)
        if encoding is None:
            encoding = asyncio.ensure_future(offload(event.change.held_bytes, lambda: self._encode(event)))
            self._encoding[event.identity] = encoding
            encoding.add_done_callback(lambda done: self._encoded_apart(event, done))
        # A watcher that goes does not take the message from the others.
        return await asyncio.shield(encoding)

    def _encoded_apart(self, event: Changed, done: "asyncio.Future[bytes]") -> None:
        del self._encoding[event.identity]
        # If it failed, each watcher that waits raises that; retrieved here, so that asyncio does not warn if none does.
        if not done.cancelled() and done.exception() is None:
            self._remember(event, done.result())

    def _remember(self, event: Changed, encoded: bytes) -> bytes:
        self._encoded[event.identity] = encoded
        self._encoded_bytes += len(encoded)
        while len(self._encoded) > ENCODED_CHANGES or self._encoded_bytes > ENCODED_BYTES:
            self._encoded_bytes -= len(self._encoded.popitem(last=False)[1])
        return encoded
