"""ZooKeeper: an instance is an ephemeral node `BASE_PATH/SERVICE/INSTANCE_ID`, a replica one in `BASE_PATH-replicas`.

What is there is `zookeeper_view`'s, how it is asked `zookeeper_session`'s; here is what this replica does.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from kazoo.exceptions import KazooException, NoNodeError
from kazoo.protocol.states import KazooState

from configsvc.errors import FailedPrecondition, Unavailable
from configsvc.registry import curator
from configsvc.registry.events import EventQueues
from configsvc.registry.port import Node, NodesChanged, RegistryEvent, ReplicasChanged, SessionChanged, SessionState
from configsvc.registry.zookeeper.acl import OpenPaths, access_list
from configsvc.registry.zookeeper.session import ZookeeperSession
from configsvc.registry.zookeeper.view import SETTLE_PAUSE_SECONDS, ZookeeperView
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Tries of an operation that another client's gets in the way of.
ATTEMPTS = 10


class ZookeeperRegistryClient:
    """See `port.ServiceRegistryClient`. Entering waits for the first connection, but no longer than the time-out.

    `hosts` is ZooKeeper's connect string: addresses with commas, and at its end perhaps a path that everything lies
    below; it is made if it is missing.

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
        supervisor: Supervisor | None = None,
    ) -> None:
        self.replica_id = replica_id
        addresses, _, chroot = hosts.partition("/")
        self._base = f"/{chroot.strip('/')}{base_path}" if chroot.strip("/") else base_path
        self._replicas_path = f"{self._base}-replicas"
        self._connection_seconds = connection_seconds
        self._supervisor = supervisor or Supervisor()
        self._session = ZookeeperSession(
            addresses,
            seconds=session_seconds,
            auth=auth,
            acl=access_list(others) if auth else None,
            heard=self._changed,
            supervisor=self._supervisor,
        )
        self._open_paths = OpenPaths(self._session, others if auth else None)
        self._view = ZookeeperView(
            self._session,
            self._base,
            self._replicas_path,
            show=self._show_replica,
            tell=self._tell,
            supervisor=self._supervisor,
        )
        self._state = SessionState.LOST
        # Whether this replica shows, and sees everything.
        self._is_settled = asyncio.Event()
        self._listeners = EventQueues()
        self._connecting: SupervisedTask | None = None
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
        if self._connecting is not None:
            await self._connecting.stop()
        await self._view.close()
        await self._session.stop()
        self._listeners.close()

    @property
    def notes(self) -> str:
        """See the port."""
        return "; ".join(filter(None, (self._view.note, self._open_paths.note)))

    async def put(self, node: Node) -> None:
        """See the port. A foreign node is never replaced: its program has no other place to show."""
        self._check()
        path, data = self._path(node.service, node.instance_id), curator.to_json(node)
        for _ in range(ATTEMPTS):
            try:
                held, stat = await self._session.get(path)
            except NoNodeError:
                if await self._session.create(path, data):
                    await self._open_paths.close(f"{self._base}/{node.service}")
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
        """See the port."""
        self._check()
        names = await self._children(service)
        held = self._view.held(service)
        other = [name for name in names if name not in held]
        read = await asyncio.gather(*(self._view.read(service, name) for name in other))
        found = {**{name: held[name] for name in names if name in held}, **dict(zip(other, read, strict=True))}
        return [node for _, node in sorted(found.items()) if node is not None]

    async def services(self) -> Sequence[str]:
        """See the port."""
        self._check()
        try:
            names = [name for name in await self._session.children(self._base) if self._view.can_be_asked_for(name)]
        except NoNodeError:
            return ()
        full = await asyncio.gather(*(self._children(name) for name in names))
        return sorted(name for name, nodes in zip(names, full, strict=True) if nodes)

    async def replicas(self) -> frozenset[str]:
        """See the port."""
        self._check()
        try:
            return frozenset(await self._session.children(self._replicas_path))
        except NoNodeError as error:
            # Somebody has removed it; it is made again.
            raise Unavailable(f"{self._replicas_path} is missing", "REGISTRY_UNAVAILABLE") from error

    def events(self) -> AsyncIterator[RegistryEvent]:
        """See the port."""
        return self._listeners.listen()

    async def ping(self) -> None:
        """See the port."""
        self._check()
        await self._session.exists(self._replicas_path)

    def _changed(self, state: str) -> None:
        if self._closed:
            return
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._view.forget()
        self._open_paths.forget()
        if state == KazooState.CONNECTED:
            self._connecting = self._supervisor.supervise("zookeeper connection", self._connect, may_return=True)
            return
        self._session.left()
        self._is_settled.clear()
        self._become(SessionState.LOST if state == KazooState.LOST else SessionState.SUSPENDED)

    async def _connect(self) -> None:
        """Shows this replica, and sets all watches; only then is it connected for anyone else."""
        self._session.is_reachable = True
        while True:
            try:
                await self._settle()
                break
            except (Unavailable, KazooException) as error:
                if str(error) != self._session.problem:
                    logger.warning("ZooKeeper is connected, but does not do what it is asked: %s", error)
                self._session.problem = str(error)
                await asyncio.sleep(SETTLE_PAUSE_SECONDS)
        self._session.arrived()
        self._is_settled.set()
        self._become(SessionState.CONNECTED)
        for service in sorted(self._view.services):
            self._tell(NodesChanged(service))
        self._tell(ReplicasChanged())

    async def _settle(self) -> None:
        try:
            await self._session.ensure(self._base)
        except Unavailable as error:
            if error.reason != "REGISTRY_FORBIDDEN":
                raise
            where = "the path of ZOOKEEPER_HOSTS with ZOOKEEPER_BASE_PATH"
            raise Unavailable(f"{where}, {self._base}, can't be made or read: {error}", error.reason) from error
        await self._show_replica()
        for path in (self._base, self._replicas_path):
            await self._open_paths.close(path)
        await self._view.watch_all()

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

    async def _children(self, service: str) -> Sequence[str]:
        """None if the service has gone, or may not be read."""
        try:
            return await self._session.children(f"{self._base}/{service}")
        except NoNodeError:
            return ()
        except Unavailable as error:
            if error.reason != "REGISTRY_FORBIDDEN":
                raise
            return ()

    def _refuse_younger(self, node: Node, data: bytes) -> None:
        try:
            held = curator.from_json(node.service, node.instance_id, data)
        except ValueError:
            held = Node(node.service, node.instance_id, "", 0)
        if not held.owner or held.generation > node.generation:
            holder = f"'{held.owner}'" if held.owner else "another program"
            raise FailedPrecondition(f"{holder} holds instance '{node.instance_id}' of '{node.service}'", "NOT_OWNER")

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
        self._listeners.tell(event)
