"""Follows all nodes in ZooKeeper by watches, as Curator's `TreeCache`, and keeps them in `CachedNodes`.

A watch fires once, and is lost with the connection. So each watch that fires is set again before its event is published. On
each new connection all watches are set, and every service counts as changed.

ZooKeeper sends the event of a change before any answer that reflects it, and both take the same way to the event loop. So
a new instance costs the reading of its service's list and of one node, however many nodes there are.

The nodes that this session creates are known without being read. Their service's list tells if one of them is gone. They
are watched, too, so that it is noticed if another program overwrites one; but at a low rate, because registering must not
wait for that.
"""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from kazoo.exceptions import KazooException, NoNodeError

from configsvc.backoff import Backoff
from configsvc.clock import Clock
from configsvc.errors import Unavailable
from configsvc.registry.port import NodesChanged, RegistryEvent, ReplicasChanged
from configsvc.registry.zookeeper.bounded_work import work_on_each
from configsvc.registry.zookeeper.cached_nodes import CachedNode, CachedNodes
from configsvc.registry.zookeeper.session import Watch, ZookeeperSession
from configsvc.registry.zookeeper.skipped_nodes import SkippedNodes
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 2.0
# Own nodes that are new get their watches in portions of this size, with this pause after each.
WATCH_NODES, WATCH_PAUSE_SECONDS = 16, 0.1
# How long the reading of a service's list waits if it most likely shows only what this session created itself. After a new
# session that is ten times fewer readings with ten instances a service. Foreign instances of the service wait, too.
OWN_LIST_SECONDS = 0.5


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
        self.cached = CachedNodes()
        self.services: set[str] = set()
        # The services whose children are watched on this connection.
        self._watched: set[str] = set()
        # The latest request that sets a watch, by service or by service and instance id. If the watch fires before the
        # answer is seen, or the connection is lost, the entry is removed, and the answer must not be cached.
        self._requests: dict[str, object] = {}
        self._watches: dict[tuple[str, str], Watch] = {}
        # The nodes that this session is creating, by service; the services in which it has created some since their list was
        # read; and those of them whose list has changed.
        self._creating: defaultdict[str, set[str]] = defaultdict(set)
        self._created: set[str] = set()
        self._own_lists: set[str] = set()
        self._has_own_lists = asyncio.Event()
        # What must be read again: the kind of watch that fired, and its name.
        self._fired: dict[tuple[str, str], None] = {}
        self._has_fired = asyncio.Event()
        self._refreshing = 0
        # The services with a node that is gone. Their lists are being read again.
        self._lost_nodes: set[str] = set()
        self._tasks: list[SupervisedTask] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being read."""
        return not self._fired and not self._refreshing and not self._own_lists

    def reset(self) -> None:
        """The connection is lost, and all watches with it."""
        self._watched.clear()
        self.cached.clear()
        self._requests.clear()
        self._lost_nodes.clear()
        self._fired.clear()
        self._created.clear()
        self._own_lists.clear()

    def start(self) -> None:
        """Begins to follow the watches that `watch_all` sets."""
        work = {
            "zookeeper watches": self._refresh_fired,
            "zookeeper own nodes": self._watch_own_nodes,
            "zookeeper own lists": self._refresh_own_lists,
        }
        self._tasks = [self._supervisor.supervise(name, run) for name, run in work.items()]

    async def watch_all(self) -> None:
        """Sets all watches. Raises kazoo's errors, and `Unavailable`."""
        await self._watch_replicas()
        await self._watch_services()

    async def close(self) -> None:
        """Stops reading."""
        await asyncio.gather(*(task.stop() for task in self._tasks))

    @contextmanager
    def creating(self, service: str, instance_id: str) -> Iterator[None]:
        """This session creates or replaces a node: what it makes need not be read. If it makes none, others may have made one."""
        self._creating[service].add(instance_id)
        try:
            yield
        finally:
            self._creating[service].discard(instance_id)
            if not self._creating[service]:
                del self._creating[service]
            if self.cached.get(service, instance_id) is None:
                self._add_fired("service", service)
            else:
                self._created.add(service)

    def _watch(self, kind: str, name: str) -> Watch:
        """The watch for a path: always the same object, so that kazoo holds it once."""
        if (kind, name) not in self._watches:
            self._watches[kind, name] = self._session.watch(self._on_fired, kind, name)
        return self._watches[kind, name]

    def _on_fired(self, is_deleted: bool, kind: str, name: str) -> None:
        service, _, instance_id = name.partition("/")
        self._requests.pop(name, None)
        if kind == "service":
            self._watched.discard(service)
            is_own = service in self._creating or service in self._created
            if is_own and service not in self._lost_nodes:
                self._own_lists.add(service)
                self._has_own_lists.set()
                return
        elif kind == "node":
            self.cached.mark_outdated(service, instance_id)
            if is_deleted and instance_id in self._creating.get(service, ()):
                # This session has most likely replaced it. If not, its list tells, a moment later.
                return
            if is_deleted:
                # The watch of the service's children fires for that, too. It tells whether there is another node now.
                self._lost_nodes.add(service)
                return
        self._add_fired(kind, name)

    def _add_fired(self, kind: str, name: str) -> None:
        self._fired[kind, name] = None
        self._has_fired.set()

    async def _refresh_fired(self) -> None:
        """Reads again what has changed, for ever."""
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            await self._has_fired.wait()
            self._has_fired.clear()
            if all(await work_on_each(self._refresh, tuple(self._fired))):
                backoff.reset()
            else:
                await self._clock.sleep(backoff.next())

    async def _refresh(self, fired: tuple[str, str]) -> bool:
        """Whether that has worked, or need not be done again. If not, it is noted to be done again."""
        kind, name = fired
        is_done = False
        self._fired.pop(fired, None)
        self._refreshing += 1
        try:
            await self._refresh_kind(kind, name)
            is_done = True
        except (Unavailable, KazooException) as error:
            logger.debug("a change in ZooKeeper could not be read yet: %s", error)
        finally:
            self._refreshing -= 1
            # If the connection is lost, everything is read on the next one.
            if not is_done and self._session.is_reachable:
                self._add_fired(kind, name)
        return is_done

    async def _refresh_kind(self, kind: str, name: str) -> None:
        service, _, instance_id = name.partition("/")
        match kind:
            case "replicas":
                await self._refresh_replicas()
            case "services":
                await self._refresh_services()
            case "service":
                await self._refresh_nodes(service)
            case "node":
                await self._refresh_node(service, instance_id)

    async def _refresh_replicas(self) -> None:
        await self._watch_replicas()
        self._publish(ReplicasChanged())

    async def _refresh_services(self) -> None:
        for service in await self._watch_services():
            self._publish(NodesChanged(service))

    async def _refresh_nodes(self, service: str) -> None:
        if await self._watch_nodes(service):
            self._publish(NodesChanged(service))

    async def _refresh_node(self, service: str, instance_id: str) -> None:
        if await self._watch_node(service, instance_id):
            self._publish(NodesChanged(service))

    async def _refresh_own_lists(self) -> None:
        while True:
            await self._has_own_lists.wait()
            await self._clock.sleep(OWN_LIST_SECONDS)
            self._has_own_lists.clear()
            while self._own_lists:
                self._add_fired("service", self._own_lists.pop())

    async def _watch_own_nodes(self) -> None:
        while True:
            await self.cached.has_unwatched.wait()
            await self._clock.sleep(WATCH_PAUSE_SECONDS)
            unwatched = list(itertools.islice(self.cached.unwatched, WATCH_NODES))
            if not unwatched:
                self.cached.has_unwatched.clear()
                continue
            try:
                await asyncio.gather(*(self._refresh_node(*key) for key in unwatched))
            except (Unavailable, KazooException) as error:
                logger.debug("own nodes in ZooKeeper could not be watched yet: %s", error)

    async def _watch_replicas(self) -> None:
        await self._show_replica()
        await self._session.children(self._replicas_path, self._watch("replicas", ""))

    async def _watch_services(self) -> Sequence[str]:
        """Returns the services that are new, or whose nodes are others than were known."""
        try:
            names = await self._session.children(self._base, self._watch("services", ""))
        except NoNodeError:
            # Another client has removed everything.
            await self._session.ensure(self._base)
            names = await self._session.children(self._base, self._watch("services", ""))
        self.skipped.retain_services(names)
        found = {name for name in names if self.skipped.is_valid_service(name)}
        new = found - self.services
        self.services |= found
        unwatched = sorted(self.services - self._watched)
        changed = await work_on_each(self._watch_nodes, unwatched)
        return sorted(new.union(itertools.compress(unwatched, changed)))

    async def _watch_nodes(self, service: str) -> bool:
        """Returns whether nodes have come or gone, except for those that this session created."""
        request = self._requests[service] = object()
        names: Sequence[str] = ()
        known = set(self.cached.of(service))
        self._created.discard(service)
        self._own_lists.discard(service)
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
        is_changed = service in self._lost_nodes
        self._lost_nodes.discard(service)
        # A node that was created meanwhile may be missing in the answer.
        gone = known - set(names)
        self.cached.remove(service, gone)
        for name in gone:
            self._watches.pop(("node", f"{service}/{name}"), None)
        self.skipped.retain_nodes(service, names)
        creating = self._creating.get(service, ())
        unread = [name for name in self.cached.to_read(service, names) if name not in creating]
        try:
            await work_on_each(partial(self._watch_node, service), unread)
        except BaseException:
            # Some nodes are not known: the service must be read again.
            self._watched.discard(service)
            raise
        return is_changed or bool(gone or unread)

    async def _watch_node(self, service: str, instance_id: str) -> bool:
        """Returns whether the node is another one than was known."""
        key, request, connection = f"{service}/{instance_id}", object(), self.cached.connection
        self._requests[key] = request
        read = CachedNode(None, is_watched=True)
        try:
            data, stat = await self._session.get(f"{self._base}/{key}", self._watch("node", key))
        except NoNodeError:
            # The node is gone. The watch of the service's children fires for that.
            self._watches.pop(("node", key), None)
            self._requests.pop(key, None)
            return False
        except Unavailable as error:
            self._skip_forbidden(error, service, instance_id)
        else:
            is_own = stat.ephemeralOwner == self._session.id
            node = self.skipped.decode(service, instance_id, data)
            read = CachedNode(node, is_own=is_own, is_watched=True, version=stat.version if is_own else None)
        if not self._is_current(key, request) or connection is not self.cached.connection:
            return False
        known = self.cached.get(service, instance_id)
        self.cached.put(service, instance_id, read)
        return known is None or known.node != read.node

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
