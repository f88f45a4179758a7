"""ZooKeeper: an instance is an ephemeral node `BASE_PATH/SERVICE/INSTANCE_ID`, a replica one in `BASE_PATH-replicas`.

Watches fire once, and are gone with a lost connection. So each one that fires is set again before its event is handed
on, and all of them are set, and every service is called changed, on each new connection.

A watched node is held as it was read: ZooKeeper tells of a change before it answers anything that comes after it, and
both take the same way to the loop. So what a service looks like is one read however many nodes it has, and an instance
that comes costs the reading of one node.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from kazoo.exceptions import KazooException, NoNodeError
from kazoo.protocol.states import KazooState

from configsvc.errors import StateForbids, Unavailable
from configsvc.registry import curator
from configsvc.registry.port import Node, NodesChanged, RegistryEvent, ReplicasChanged, SessionChanged, SessionState
from configsvc.registry.zookeeper_session import Watch, ZookeeperSession

logger = logging.getLogger(__name__)

# Tries of an operation that another client's gets in the way of.
ATTEMPTS = 10
SETTLE_PAUSE_SECONDS = 0.2


class ZookeeperRegistryClient:
    """See `port.ServiceRegistryClient`. Entering waits for the first connection, but no longer than the time-out.

    `auth` is a scheme and a credential (`digest`, `user:password`): what this service makes is then its own, and others
    may do with it what `others` says, in letters of `cdrwa` as zkCli has them. JVM services that only read need `r`;
    those that show beside this service's instances need `cr`.
    """

    name = "zookeeper"

    def __init__(
        self,
        hosts: str,
        base_path: str,
        replica_id: str,
        *,
        connection_seconds: float,
        session_seconds: float,
        auth: tuple[str, str] | None = None,
        others: str = "r",
    ) -> None:
        self.replica_id = replica_id
        self._base = base_path
        self._replicas_path = f"{base_path}-replicas"
        self._connection_seconds = connection_seconds
        self._session = ZookeeperSession(hosts, seconds=session_seconds, auth=auth, others=others, heard=self._changed)
        self._state = SessionState.LOST
        # Whether this replica shows, and sees everything.
        self._is_settled = asyncio.Event()
        # By content: merged, never lost.
        self._listeners: list[tuple[dict[RegistryEvent, None], asyncio.Event]] = []
        self._known: set[str] = set()
        # What is watched on this connection: services whose list of nodes is, and nodes as they were read (None: such as
        # are no instance's), by service and instance id.
        self._listed: set[str] = set()
        self._held: dict[str, dict[str, Node | None]] = {}
        # Watches being set, by the same names. One that fires before its answer is seen is none any more.
        self._setting: dict[str, object] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._watches: dict[tuple[str, str], Watch] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        self._session.start()
        try:
            await asyncio.wait_for(self._is_settled.wait(), self._connection_seconds)
        except TimeoutError:
            logger.error("ZooKeeper is away; it is connected to as soon as it answers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        tasks = [*self._tasks, *((self._connecting,) if self._connecting else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.stop()
        for _, wake in self._listeners:
            wake.set()

    async def put(self, node: Node) -> None:
        """See the port. A foreign node is never replaced: its program has no other place to show."""
        self._check()
        path, data = self._path(node.service, node.instance_id), curator.to_json(node)
        for _ in range(ATTEMPTS):
            try:
                held, stat = await self._session.get(path)
            except NoNodeError:
                if await self._session.create(path, data):
                    return
                continue
            if stat.ephemeralOwner == self._session.id:
                if await self._session.set(path, data, stat.version):
                    return
                continue
            self._refuse_younger(node, held)
            if await self._session.replace(path, data, stat.version):
                return
        raise Unavailable(f"node {path} is changed by others all the time", "REGISTRY_UNAVAILABLE")

    async def remove(self, service: str, instance_id: str) -> None:
        """See the port."""
        self._check()
        path = self._path(service, instance_id)
        for _ in range(ATTEMPTS):
            try:
                _, stat = await self._session.get(path)
            except NoNodeError:
                return
            if stat.ephemeralOwner != self._session.id or await self._session.delete(path, stat.version):
                return

    async def nodes(self, service: str) -> Sequence[Node]:
        """See the port. Data that is not an instance's is left out."""
        self._check()
        try:
            names = await self._session.children(f"{self._base}/{service}")
        except NoNodeError:
            return ()
        held = self._held.get(service, {})
        other = [name for name in names if name not in held]
        read = await asyncio.gather(*(self._node(service, name) for name in other))
        found = {**{name: held[name] for name in names if name in held}, **dict(zip(other, read, strict=True))}
        return [node for _, node in sorted(found.items()) if node is not None]

    async def services(self) -> Sequence[str]:
        """See the port."""
        self._check()
        try:
            names = await self._session.children(self._base)
        except NoNodeError:
            return ()
        full = await asyncio.gather(*(self._has_nodes(name) for name in names))
        return sorted(name for name, has_nodes in zip(names, full, strict=True) if has_nodes)

    async def replicas(self) -> frozenset[str]:
        """See the port."""
        self._check()
        return frozenset(await self._session.children(self._replicas_path))

    async def events(self) -> AsyncIterator[RegistryEvent]:
        """See the port."""
        waiting: dict[RegistryEvent, None] = {}
        wake = asyncio.Event()
        entry = (waiting, wake)
        self._listeners.append(entry)
        try:
            while not self._closed or waiting:
                if not waiting:
                    wake.clear()
                    await wake.wait()
                    continue
                event = next(iter(waiting))
                del waiting[event]
                yield event
        finally:
            self._listeners.remove(entry)

    async def ping(self) -> None:
        """See the port."""
        self._check()
        await self._session.exists(self._replicas_path)

    def _watch(self, kind: str, name: str) -> Watch:
        """The watch for a path: always the same one, so that kazoo holds it once."""
        if (kind, name) not in self._watches:
            self._watches[kind, name] = self._session.watch(self._seen, kind, name)
        return self._watches[kind, name]

    def _changed(self, state: str) -> None:
        if self._closed:
            return
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._listed.clear()
        self._held.clear()
        self._setting.clear()
        if state == KazooState.CONNECTED:
            self._connecting = asyncio.create_task(self._connect(), name="zookeeper-connect")
            return
        self._session.left()
        self._is_settled.clear()
        self._become(SessionState.LOST if state == KazooState.LOST else SessionState.SUSPENDED)

    async def _connect(self) -> None:
        """Shows this replica, and sets all watches; only then is it connected for anyone else."""
        self._session.is_reachable = True
        while True:
            try:
                await self._session.ensure(self._base)
                await self._show_replica()
                await self._watch_replicas()
                await self._watch_services()
                break
            except (Unavailable, KazooException) as error:
                if str(error) != self._session.problem:
                    logger.warning("ZooKeeper is connected, but does not do what it is asked: %s", error)
                self._session.problem = str(error)
                await asyncio.sleep(SETTLE_PAUSE_SECONDS)
        self._session.arrived()
        self._is_settled.set()
        self._become(SessionState.CONNECTED)
        for service in sorted(self._known):
            self._tell(NodesChanged(service))
        self._tell(ReplicasChanged())

    async def _show_replica(self) -> None:
        path = f"{self._replicas_path}/{self.replica_id}"
        for _ in range(ATTEMPTS):
            try:
                _, stat = await self._session.get(path)
            except NoNodeError:
                if await self._session.create(path, b""):
                    return
                continue
            if stat.ephemeralOwner == self._session.id or await self._session.replace(path, b"", stat.version):
                return
        raise Unavailable(f"node {path} is changed by others all the time", "REGISTRY_UNAVAILABLE")

    def _seen(self, kind: str, name: str) -> None:
        if self._closed:
            return
        work: Callable[[], Coroutine[Any, Any, None]]
        service, _, instance_id = name.partition("/")
        self._setting.pop(name, None)
        if kind == "replicas":
            work = self._replicas_seen
        elif kind == "services":
            work = self._services_seen
        elif kind == "service":
            self._listed.discard(service)
            work = partial(self._nodes_seen, service)
        else:
            self._held.get(service, {}).pop(instance_id, None)
            work = partial(self._node_seen, service, instance_id)
        task = asyncio.create_task(self._followed(work), name=f"zookeeper-{kind}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _followed(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
                return
            except (Unavailable, KazooException) as error:
                logger.debug("a change in ZooKeeper could not be followed yet: %s", error)
            if not self._session.is_reachable:
                # The next connection tells everything again.
                return
            await asyncio.sleep(SETTLE_PAUSE_SECONDS)

    async def _replicas_seen(self) -> None:
        await self._watch_replicas()
        self._tell(ReplicasChanged())

    async def _services_seen(self) -> None:
        for service in await self._watch_services():
            self._tell(NodesChanged(service))

    async def _nodes_seen(self, service: str) -> None:
        await self._watch_nodes(service)
        self._tell(NodesChanged(service))

    async def _node_seen(self, service: str, instance_id: str) -> None:
        await self._watch_node(service, instance_id)
        self._tell(NodesChanged(service))

    async def _watch_replicas(self) -> None:
        await self._session.children(self._replicas_path, self._watch("replicas", ""))

    async def _watch_services(self) -> Sequence[str]:
        """Returns the services that are new."""
        found = set(await self._session.children(self._base, self._watch("services", "")))
        new = sorted(found - self._known)
        self._known |= found
        await asyncio.gather(*(self._watch_nodes(service) for service in sorted(self._known - self._listed)))
        return new

    async def _watch_nodes(self, service: str) -> None:
        setting = self._setting[service] = object()
        try:
            names = await self._session.children(f"{self._base}/{service}", self._watch("service", service))
        except NoNodeError:
            self._known.discard(service)
            self._setting.pop(service, None)
            names = []
        else:
            if self._is_set(service, setting):
                self._listed.add(service)
        held = self._held.get(service, {})
        for gone in held.keys() - set(names):
            del held[gone]
            self._watches.pop(("node", f"{service}/{gone}"), None)
        if not held:
            self._held.pop(service, None)
        await asyncio.gather(*(self._watch_node(service, name) for name in names if name not in held))

    async def _watch_node(self, service: str, instance_id: str) -> None:
        key, setting = f"{service}/{instance_id}", object()
        self._setting[key] = setting
        try:
            data, _ = await self._session.get(f"{self._base}/{key}", self._watch("node", key))
        except NoNodeError:
            # Gone again; the children's watch tells.
            self._watches.pop(("node", key), None)
            self._setting.pop(key, None)
            return
        if self._is_set(key, setting):
            self._held.setdefault(service, {})[instance_id] = _instance(service, instance_id, data)

    def _is_set(self, name: str, setting: object) -> bool:
        """Whether a watch that has its answer has not fired since, and is of this connection."""
        if self._setting.get(name) is not setting:
            return False
        del self._setting[name]
        return True

    async def _node(self, service: str, name: str) -> Node | None:
        try:
            data, _ = await self._session.get(self._path(service, name))
        except NoNodeError:
            return None
        return _instance(service, name, data)

    async def _has_nodes(self, service: str) -> bool:
        try:
            return bool(await self._session.children(f"{self._base}/{service}"))
        except NoNodeError:
            return False

    def _refuse_younger(self, node: Node, data: bytes) -> None:
        try:
            held = curator.from_json(node.service, node.instance_id, data)
        except ValueError:
            held = Node(node.service, node.instance_id, "", 0)
        if not held.owner or held.generation > node.generation:
            holder = f"'{held.owner}'" if held.owner else "another program"
            raise StateForbids(f"{holder} holds instance '{node.instance_id}' of '{node.service}'", "NOT_OWNER")

    def _check(self) -> None:
        """Nothing is said of a registry that this replica does not wholly see."""
        if not self._is_settled.is_set() or self._closed:
            raise self._session.away()

    def _path(self, service: str, instance_id: str) -> str:
        return f"{self._base}/{service}/{instance_id}"

    def _become(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self._tell(SessionChanged(state))

    def _tell(self, event: RegistryEvent) -> None:
        for waiting, wake in self._listeners:
            waiting.pop(event, None)
            waiting[event] = None
            wake.set()


def _instance(service: str, name: str, data: bytes) -> Node | None:
    """None where the node is not an instance's."""
    try:
        return curator.from_json(service, name, data)
    except ValueError as error:
        logger.warning("node '%s' of service '%s' is not an instance: %s", name, service, error)
        return None
