"""KeepAlive streams: each message renews the lease of one incarnation; the end of its last stream makes it SUSPECT.

An incarnation may have several streams to this replica, and others to other replicas: a client that lost its network may
be back before its old connection is noticed to be gone. So only the end of the last stream counts. If this replica stops,
the end of its streams says nothing about the instances.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from configsvc.app.registry.registrations import Registrations
from configsvc.domain.instances import HEALTHY, SUSPECT, Incarnation, Instance
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import AtRevision, Record
from configsvc.errors import Unavailable
from configsvc.tasks import BackgroundTasks

T = TypeVar("T")


class LeaseRenewal(Protocol):
    """The part of the directory that renews leases."""

    async def heartbeat(
        self,
        service: str,
        instance_id: str,
        precondition: Precondition = NO_PRECONDITION,
        *,
        incarnation: Incarnation | None = None,
    ) -> AtRevision[Instance]:
        """Renews a lease. Raises `NotFound` if the instance, or this incarnation of it, is not registered."""
        ...


class KeepAliveStream:
    """One open stream of an incarnation."""

    def __init__(self, directory: LeaseRenewal, incarnation: Incarnation) -> None:
        self._directory = directory
        self._incarnation = incarnation

    async def renew(self) -> int:
        """Renews the lease; returns its length in seconds. Raises `NotFound` if the incarnation has left."""
        ref = self._incarnation.ref
        instance = (await self._directory.heartbeat(ref.service, ref.key, incarnation=self._incarnation)).value
        return instance.lease_ttl_seconds


class KeepAliveStreams:
    """The open streams to this replica. Observes the registrations."""

    def __init__(self, registrations: Registrations, directory: LeaseRenewal, background: BackgroundTasks) -> None:
        self._registrations = registrations
        self._directory = directory
        self._background = background
        self._open: Counter[Incarnation] = Counter()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def open(self, service: str, instance_id: str) -> AsyncIterator[KeepAliveStream]:
        """An instance's stream. Raises `NotFound` if the instance is not registered."""
        instance = (await self._directory.heartbeat(service, instance_id)).value
        incarnation = Incarnation(instance.ref, instance.incarnation)
        self._open[incarnation] += 1
        try:
            yield KeepAliveStream(self._directory, incarnation)
        finally:
            self._open[incarnation] -= 1
            if not self._open[incarnation]:
                del self._open[incarnation]
                if not self._stopping.is_set():
                    self._set_status(incarnation, SUSPECT, "its stream ended", expected_status=HEALTHY)

    def on_put(self, record: Record, before: Record | None) -> None:
        """Makes an instance HEALTHY again if another replica made it SUSPECT although a stream to this replica is open.

        The other replica may have noticed the end of an old stream late.
        """
        incarnation = Incarnation.of(record)
        if record.body["status"] == SUSPECT and incarnation in self._open:
            self._set_status(incarnation, HEALTHY, "it has another stream", expected_status=SUSPECT)

    def on_remove(self, record: Record) -> None:
        """Does nothing: the next message of the stream raises `NotFound`."""

    async def unless_stopping(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises `Unavailable`, reason `SHUTTING_DOWN`, if this replica stops first."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise Unavailable("this replica is shutting down; go on with another", "SHUTTING_DOWN")
        finally:
            for task in (working, stopping):
                task.cancel()

    def shutdown(self) -> None:
        """Ends the calls of `unless_stopping`. From now on the end of a stream does not make its instance SUSPECT."""
        self._stopping.set()

    def _set_status(self, incarnation: Incarnation, status: str, reason: str, *, expected_status: str) -> None:
        self._background.start(
            self._registrations.set_status(incarnation, status, "keep-alive", reason, expected_status=expected_status)
        )
