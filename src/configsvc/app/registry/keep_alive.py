"""KeepAlive streams: each renews the lease of one incarnation of an instance, and its end makes that one suspect.

An incarnation may have several streams to this replica, and others to other replicas: a client that lost its network is
back before anyone notices that the old connection is gone. Only the end of the last one counts, and nothing counts if
this replica stops: that says nothing about the instance.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from configsvc.app.registry.registrations import Registrations
from configsvc.domain.instances import HEALTHY, SUSPECT, Incarnation, Instance, incarnation_of
from configsvc.domain.records import Record
from configsvc.errors import Unavailable
from configsvc.tasks import BackgroundTasks

T = TypeVar("T")


class KeepAlive:
    """One open stream."""

    def __init__(self, beat: Callable[[], Awaitable[Instance]]) -> None:
        self._beat = beat

    async def renew(self) -> int:
        """Renews the lease; returns its length in seconds. Raises `NotFound` if the incarnation has left."""
        return (await self._beat()).lease_ttl_seconds


class Streams:
    """The open streams to this replica. A `Follower` of the registrations."""

    def __init__(self, registrations: Registrations, background: BackgroundTasks) -> None:
        self._registrations = registrations
        self._background = background
        self._open: Counter[Incarnation] = Counter()
        # Set when this replica stops: from then on the end of a stream says nothing about its instance.
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def kept(self, incarnation: Incarnation, beat: Callable[[], Awaitable[Instance]]) -> AsyncIterator[KeepAlive]:
        """A stream of an incarnation, which `beat` renews. If its last one ends while it is there, it becomes suspect."""
        self._open[incarnation] += 1
        try:
            yield KeepAlive(beat)
        finally:
            self._open[incarnation] -= 1
            if not self._open[incarnation]:
                del self._open[incarnation]
                if not self._stopping.is_set():
                    ended = self._registrations.set_status(
                        incarnation, SUSPECT, "keep-alive", "its stream ended", of=HEALTHY
                    )
                    self._background.start(ended)

    def taken(self, record: Record, before: Record | None) -> None:
        """See `Follower`."""
        incarnation = incarnation_of(record)
        if record.body["status"] == SUSPECT and incarnation in self._open:
            # Its stream to another replica ended, perhaps long ago and noticed only now; this one lives.
            self._background.start(
                self._registrations.set_status(incarnation, HEALTHY, "keep-alive", "it has another stream", of=SUSPECT)
            )

    def dropped(self, record: Record) -> None:
        """See `Follower`. A stream to what has left finds out with its next message."""

    async def unless_stopping(self, coming: Coroutine[Any, Any, T]) -> T:
        """What is waited for. Raises `Unavailable`, reason `SHUTTING_DOWN`, if this replica stops first."""
        wanted, stopping = asyncio.create_task(coming), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((wanted, stopping), return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
            raise Unavailable("this replica is shutting down; go on with another", "SHUTTING_DOWN")
        finally:
            for task in (wanted, stopping):
                task.cancel()

    def shutdown(self) -> None:
        """Ends what waits in `unless_stopping`."""
        self._stopping.set()
