"""Reconciles this replica with the registry: reads what may have changed, and acts on it until that has worked.

After the start and after each new connection, the whole registry is read.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.ownership.adoption import Adoption
from configsvc.app.registry.ownership.projection import NodeProjection
from configsvc.app.registry.ownership.reconcile_queue import AllChanged, ReconcileItem, ReconcileQueue
from configsvc.errors import ServiceError
from configsvc.registry.port import (
    NodesChanged,
    RegistryEvent,
    ReplicasChanged,
    ServiceRegistryClient,
    SessionChanged,
    SessionState,
)

logger = logging.getLogger(__name__)


class Reconciler:
    """Foreign nodes are shown as they are, own nodes are repaired, and the instances of dead replicas are adopted."""

    def __init__(
        self,
        *,
        registry: ServiceRegistryClient,
        queue: ReconcileQueue,
        foreign: ForeignInstances,
        projection: NodeProjection,
        adoption: Adoption,
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._foreign = foreign
        self._projection = projection
        self._adoption = adoption
        self._events: AsyncIterator[RegistryEvent] | None = None
        self._last_error = ""
        # None until the registry has reported it. Until then, calls of the registry show whether it is reachable.
        self._session: SessionState | None = None
        # The services that have not been read since the connection began. None: they are not known yet.
        self._unread: set[str] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the registry is reachable, and all of it was read since it became reachable."""
        return self._session in (None, SessionState.CONNECTED) and self._unread is not None and not self._unread

    async def start(self) -> None:
        """Reads the whole registry once. Events from now on are handled by `run`."""
        self._events = self._registry.events()
        self._queue.add(AllChanged())
        await self._reconcile_pending()

    def reconcile_all(self) -> None:
        """Reads the whole registry again, soon."""
        self._queue.add(AllChanged())

    async def run(self) -> None:
        """Handles events until the registry is closed."""
        events, self._events = self._events, None
        if events is None:
            # This is a restart after a failure: events may have been missed.
            events = self._registry.events()
            self._queue.add(AllChanged())
        async with asyncio.TaskGroup() as tasks:
            workers = [
                tasks.create_task(work, name="registry-reconciler")
                for work in (self._work(), self._queue.run_retries())
            ]
            async for event in events:
                self._on_event(event)
            for worker in workers:
                worker.cancel()

    def _on_event(self, event: RegistryEvent) -> None:
        if not isinstance(event, SessionChanged):
            self._queue.add(event)
            return
        self._session = event.state
        self._unread = None
        self._queue.clear()
        if event.state is SessionState.CONNECTED:
            self._projection.project_owned()
            self._queue.add(AllChanged())

    async def _work(self) -> None:
        while True:
            await self._queue.wait()
            await self._reconcile_pending()

    async def _reconcile_pending(self) -> None:
        while (item := self._queue.take()) is not None:
            session = self._session
            try:
                await self._reconcile(item)
            except ServiceError as error:
                # A reason is logged once, not with each retry.
                level = logging.DEBUG if str(error) == self._last_error else logging.WARNING
                logger.log(level, "a change in the registry could not be handled: %s", error)
                self._last_error = str(error)
                if session is self._session:
                    self._queue.retry(item)
            # Thousands of services give way to other work, even if none of them has to be asked for.
            await asyncio.sleep(0)
        if not self._queue.has_failed:
            self._last_error = ""

    async def _reconcile(self, item: ReconcileItem) -> None:
        match item:
            case AllChanged():
                unread = {*await self._registry.services(), *self._foreign.services}
                self._unread = set(unread)
                self._queue.add(ReplicasChanged())
                for service in sorted(unread):
                    self._queue.add(NodesChanged(service))
            case ReplicasChanged():
                await self._adoption.adopt()
            case NodesChanged(service):
                await self._reconcile_service(service)
                if self._unread is not None:
                    self._unread.discard(service)

    async def _reconcile_service(self, service: str) -> None:
        nodes = await self._registry.nodes(service)
        self._foreign.update(service, nodes)
        self._projection.repair(service, nodes)
