"""The projection of records into the registry: an instance's node is made by its owner, and shows its record."""

import asyncio
import logging
from collections.abc import Sequence

from configsvc.app.registry.ownership.reconcile_queue import ReconcileQueue
from configsvc.app.registry.registrations import Registrations
from configsvc.domain.instances import instance_ref
from configsvc.domain.records import Record, Ref
from configsvc.errors import FailedPrecondition, ServiceError
from configsvc.registry.port import Node, NodesChanged, ServiceRegistryClient
from configsvc.tasks import BackgroundTasks

logger = logging.getLogger(__name__)

# Projections under way at the same time. They share requests, so more would not be faster, and after the loss of a session
# a task for each of thousands of instances would stop all other work for a moment.
CONCURRENT_PROJECTIONS = 256


class NodeProjection:
    """Keeps the nodes of this replica's instances as their records are. Observes the registrations.

    A projection that fails is put into the queue, to be tried again.
    """

    def __init__(
        self,
        *,
        registrations: Registrations,
        registry: ServiceRegistryClient,
        queue: ReconcileQueue,
        background: BackgroundTasks,
    ) -> None:
        self._registrations = registrations
        self._registry = registry
        self._queue = queue
        self._background = background
        self._me = registry.replica_id
        self._running: dict[Ref, asyncio.Task[None]] = {}
        self._waiting: dict[Ref, None] = {}

    def on_put(self, record: Record, before: Record | None) -> None:
        """Projects the record, if this replica owns it."""
        if self._registrations.owns(record):
            self._start(record.ref)

    def on_remove(self, record: Record) -> None:
        """Removes the node, if this replica owned it."""
        if self._registrations.owns(record):
            self._start(record.ref)

    async def wait_projected(self, ref: Ref) -> None:
        """Returns when the registry shows an own instance as it is on record, or when that has failed.

        An instance that somebody waits for does not wait behind the others.
        """
        if ref in self._waiting:
            self._run(ref)
        if (running := self._running.get(ref)) is not None:
            await asyncio.shield(running)

    def project_owned(self) -> None:
        """Projects all of this replica's instances: the registry's session is new, and may have lost their nodes."""
        for record in self._registrations.owned():
            self._start(record.ref)

    def repair(self, service: str, nodes: Sequence[Node]) -> None:
        """Makes own nodes again that are missing or out of date, and removes own nodes without a record."""
        shown = {node.instance_id: node for node in nodes}
        for record in self._registrations.owned(service):
            node = shown.get(record.ref.key)
            if node is None or (node.owner == self._me and node != _node(record)):
                self._start(record.ref)
        if self._registrations.is_loaded:
            for node in nodes:
                ref = instance_ref(service, node.instance_id)
                if node.owner == self._me and self._registrations.get(ref) is None:
                    # The record was removed while the registry was unreachable.
                    self._start(ref)

    async def retract(self) -> None:
        """Removes own nodes of instances that are on record as another replica's, or not on record.

        Usually the new owner replaces the node. After a restore of the store, the record may name an earlier owner, whose
        generation is lower than that of the node. It could not replace the node.
        """
        try:
            for service in await self._registry.services():
                for node in await self._registry.nodes(service):
                    ref = instance_ref(service, node.instance_id)
                    if node.owner == self._me and not self._registrations.owns(self._registrations.get(ref)):
                        await self._registry.remove(service, node.instance_id)
        except ServiceError as error:
            logger.warning("nodes that are not this replica's any more can't be removed: %s", error)

    def _start(self, ref: Ref) -> None:
        """Projects an instance soon. There is one projection of an instance at a time."""
        if ref in self._running:
            return
        if len(self._running) < CONCURRENT_PROJECTIONS:
            self._run(ref)
        else:
            self._waiting[ref] = None

    def _run(self, ref: Ref) -> None:
        self._waiting.pop(ref, None)
        task = self._running[ref] = self._background.start(self._project(ref))
        task.add_done_callback(lambda done: self._on_end(ref, done))

    def _on_end(self, ref: Ref, task: "asyncio.Task[None]") -> None:
        del self._running[ref]
        # If it was cancelled, this replica stops.
        if self._waiting and len(self._running) < CONCURRENT_PROJECTIONS and not task.cancelled():
            self._run(next(iter(self._waiting)))

    async def _project(self, ref: Ref) -> None:
        while True:
            record = self._registrations.get(ref)
            try:
                if record is None:
                    await self._registry.remove(ref.service, ref.key)
                elif self._registrations.owns(record):
                    await self._registry.put(_node(record))
                # If another replica owns it, that one replaces this node, so that the instance is shown without a gap.
            except ServiceError as error:
                # The record is the truth. The node is corrected when the registry is back, or the obstacle has gone.
                logger.warning("the registry does not show instance '%s' as it is: %s", ref.key, error)
                if not isinstance(error, FailedPrecondition):
                    self._queue.retry(NodesChanged(ref.service))
                return
            if self._registrations.get(ref) is record:
                return


def _node(record: Record) -> Node:
    payload = {name: value for name, value in record.body.items() if name not in ("owner", "generation", "incarnation")}
    payload["registered_at"] = record.created_at.isoformat()
    return Node(record.ref.service, record.ref.key, record.body["owner"], record.body["generation"], payload)
