"""A cache of all nodes in ZooKeeper, kept up to date by watches, as Curator's `TreeCache`.

A watch fires once, and is lost with the connection. So each watch that fires is set again before its event is published. On
each new connection all watches are set, and every service counts as changed.

ZooKeeper sends the event of a change before any answer that reflects it, and both take the same way to the event loop. So
reading a service costs one request, however many nodes it has, and a new instance costs the reading of one node.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from kazoo.exceptions import KazooException, NoNodeError

from configsvc.backoff import Backoff
from configsvc.clock import Clock
from configsvc.errors import Unavailable
from configsvc.registry.port import Node, NodesChanged, RegistryEvent, ReplicasChanged
from configsvc.registry.zookeeper.session import Watch, ZookeeperSession
from configsvc.registry.zookeeper.skipped_nodes import SkippedNodes
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 2.0


class TreeCache:
    """The cached nodes and their watches.

    `show_replica` creates this replica's own node, if others have removed it. `publish` gets the events.
    """

    def __init__(
        self,
        session: ZookeeperSession,
        base: str,
        replicas_path: str,
        *,
        show_replica: Callable[[], Coroutine[Any, Any, None]],
        publish: Callable[[RegistryEvent], None],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._session = session
        self._base = base
        self._replicas_path = replicas_path
        self._show_replica = show_replica
        self._publish = publish
        self._clock = clock
        self._supervisor = supervisor
        self.skipped = SkippedNodes()
        self.services: set[str] = set()
        # The services whose children are watched on this connection.
        self._watched: set[str] = set()
        # The nodes that are watched on this connection, as they were read (None: left out), by service and instance id.
        self._nodes: dict[str, dict[str, Node | None]] = {}
        # The latest request that sets a watch, by service or by service and instance id. If the watch fires before the
        # answer is seen, or the connection is lost, the entry is removed, and the answer must not be cached.
        self._requests: dict[str, object] = {}
        self._watches: dict[tuple[str, str], Watch] = {}
        self._refreshes: set[SupervisedTask] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being read."""
        return not self._refreshes

    def nodes(self, service: str) -> Mapping[str, Node | None]:
        """The cached nodes of a service, which are current. There may be others that are not cached."""
        return self._nodes.get(service, {})

    def reset(self) -> None:
        """The connection is lost, and all watches with it."""
        self._watched.clear()
        self._nodes.clear()
        self._requests.clear()

    async def watch_all(self) -> None:
        """Sets all watches. Raises kazoo's errors, and `Unavailable`."""
        await self._watch_replicas()
        await self._watch_services()

    async def close(self) -> None:
        """Stops reading."""
        await asyncio.gather(*(refresh.stop() for refresh in tuple(self._refreshes)))

    async def read(self, service: str, instance_id: str) -> Node | None:
        """A node that is not cached. None if it is gone or left out."""
        try:
            data, _ = await self._session.get(f"{self._base}/{service}/{instance_id}")
        except NoNodeError:
            return None
        except Unavailable as error:
            self._skip_forbidden(error, service, instance_id)
            return None
        return self.skipped.decode(service, instance_id, data)

    def _watch(self, kind: str, name: str) -> Watch:
        """The watch for a path: always the same object, so that kazoo holds it once."""
        if (kind, name) not in self._watches:
            self._watches[kind, name] = self._session.watch(self._on_fired, kind, name)
        return self._watches[kind, name]

    def _on_fired(self, kind: str, name: str) -> None:
        if self._session.is_closed:
            return
        refresh: Callable[[], Coroutine[Any, Any, None]]
        service, _, instance_id = name.partition("/")
        self._requests.pop(name, None)
        if kind == "replicas":
            refresh = self._refresh_replicas
        elif kind == "services":
            refresh = self._refresh_services
        elif kind == "service":
            self._watched.discard(service)
            refresh = partial(self._refresh_nodes, service)
        else:
            self._nodes.get(service, {}).pop(instance_id, None)
            refresh = partial(self._refresh_node, service, instance_id)
        task = self._supervisor.supervise(f"zookeeper {kind}", partial(self._run, refresh), may_return=True)
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)

    async def _run(self, refresh: Callable[[], Coroutine[Any, Any, None]]) -> None:
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                await refresh()
                return
            except (Unavailable, KazooException) as error:
                logger.debug("a change in ZooKeeper could not be read yet: %s", error)
            if not self._session.is_reachable:
                # Everything is read on the next connection.
                return
            await self._clock.sleep(backoff.next())

    async def _refresh_replicas(self) -> None:
        await self._watch_replicas()
        self._publish(ReplicasChanged())

    async def _refresh_services(self) -> None:
        for service in await self._watch_services():
            self._publish(NodesChanged(service))

    async def _refresh_nodes(self, service: str) -> None:
        await self._watch_nodes(service)
        self._publish(NodesChanged(service))

    async def _refresh_node(self, service: str, instance_id: str) -> None:
        await self._watch_node(service, instance_id)
        self._publish(NodesChanged(service))

    async def _watch_replicas(self) -> None:
        await self._show_replica()
        await self._session.children(self._replicas_path, self._watch("replicas", ""))

    async def _watch_services(self) -> Sequence[str]:
        """Returns the services that are new."""
        try:
            names = await self._session.children(self._base, self._watch("services", ""))
        except NoNodeError:
            # Another client has removed everything.
            await self._session.ensure(self._base)
            names = await self._session.children(self._base, self._watch("services", ""))
        self.skipped.retain_services(names)
        found = {name for name in names if self.skipped.is_valid_service(name)}
        new = sorted(found - self.services)
        self.services |= found
        await asyncio.gather(*(self._watch_nodes(service) for service in sorted(self.services - self._watched)))
        return new

    async def _watch_nodes(self, service: str) -> None:
        request = self._requests[service] = object()
        names: Sequence[str] = ()
        try:
            names = await self._session.children(f"{self._base}/{service}", self._watch("service", service))
        except NoNodeError:
            self.services.discard(service)
            self._requests.pop(service, None)
        except Unavailable as error:
            self._skip_forbidden(error, service, "")
            self._requests.pop(service, None)
        else:
            if self._is_current(service, request):
                self._watched.add(service)
            self.skipped.discard(service)
        cached = self._nodes.get(service, {})
        for gone in cached.keys() - set(names):
            del cached[gone]
            self._watches.pop(("node", f"{service}/{gone}"), None)
        if not cached:
            self._nodes.pop(service, None)
        self.skipped.retain_nodes(service, names)
        await asyncio.gather(*(self._watch_node(service, name) for name in names if name not in cached))

    async def _watch_node(self, service: str, instance_id: str) -> None:
        key, request = f"{service}/{instance_id}", object()
        self._requests[key] = request
        node: Node | None = None
        try:
            data, _ = await self._session.get(f"{self._base}/{key}", self._watch("node", key))
        except NoNodeError:
            # The node is gone. The watch of the service's children fires for that.
            self._watches.pop(("node", key), None)
            self._requests.pop(key, None)
            return
        except Unavailable as error:
            self._skip_forbidden(error, service, instance_id)
        else:
            node = self.skipped.decode(service, instance_id, data)
        if self._is_current(key, request):
            self._nodes.setdefault(service, {})[instance_id] = node

    def _is_current(self, name: str, request: object) -> bool:
        """Whether the watch of an answered request has not fired since, and belongs to this connection."""
        if self._requests.get(name) is not request:
            return False
        del self._requests[name]
        return True

    def _skip_forbidden(self, error: Unavailable, service: str, instance_id: str) -> None:
        """Leaves out a path that may not be read. Any other error is raised."""
        if error.reason != "REGISTRY_FORBIDDEN":
            raise error
        self.skipped.add(service, instance_id, "ZooKeeper forbids to read it")
