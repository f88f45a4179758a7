"""The ZooKeeper adapter: an instance is an ephemeral node `BASE_PATH/SERVICE/INSTANCE_ID`, a replica one in
`BASE_PATH-replicas`.

`session` calls ZooKeeper, `tree_cache` holds what was read, `acl` restricts access. This module implements the port.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from kazoo.exceptions import KazooException, NoNodeError
from kazoo.protocol.states import KazooState

from configsvc.backoff import Backoff
from configsvc.clock import Clock, SystemClock, wait_for_event
from configsvc.errors import FailedPrecondition, Unavailable
from configsvc.registry import curator
from configsvc.registry.events import EventQueues
from configsvc.registry.port import Node, NodesChanged, RegistryEvent, ReplicasChanged, SessionChanged, SessionState
from configsvc.registry.zookeeper.acl import AclRepair, access_list
from configsvc.registry.zookeeper.creates import GroupedCreates
from configsvc.registry.zookeeper.session import ZookeeperSession
from configsvc.registry.zookeeper.tree_cache import LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS, TreeCache
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Attempts of an operation, if other clients change the same node at the same time.
ATTEMPTS = 10


class ZookeeperRegistryClient:
    """See `port.ServiceRegistryClient`. Entering waits for the first connection, for at most `connection_seconds`.

    `hosts` is ZooKeeper's connect string: addresses, separated by commas, and perhaps a path (chroot) at its end, which all
    nodes are below. The path is created if it is missing.

    `auth` is a scheme and a credential (`digest`, `user:password`): the nodes of this service then belong to it. `others`
    says what everyone else may do with them, in letters of `cdrwa` as in zkCli. JVM services that only read need `r`;
    those that show instances of the same services need `cr`.
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
        clock: Clock | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.replica_id = replica_id
        addresses, _, chroot = hosts.partition("/")
        self._base = f"/{chroot.strip('/')}{base_path}" if chroot.strip("/") else base_path
        self._replicas_path = f"{self._base}-replicas"
        self._connection_seconds = connection_seconds
        self._clock = clock or SystemClock()
        self._supervisor = supervisor or Supervisor(self._clock)
        self._queues = EventQueues()
        self._session = ZookeeperSession(
            addresses,
            seconds=session_seconds,
            auth=auth,
            acl=access_list(others) if auth else None,
            on_state=self._on_state,
            clock=self._clock,
            supervisor=self._supervisor,
        )
        self._acl_repair = AclRepair(self._session, others if auth else None)
        self._cache = TreeCache(
            self._session,
            self._base,
            self._replicas_path,
            show_replica=self._show_replica,
            publish=self._queues.publish,
            clock=self._clock,
            supervisor=self._supervisor,
        )
        self._creates = GroupedCreates(self._session)
        self._state = SessionState.LOST
        # Set while this replica is shown, and everything is read and watched.
        self._is_settled = asyncio.Event()
        self._settling: SupervisedTask | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._session.start()
        self._cache.start()
        if not await wait_for_event(self._clock, self._connection_seconds, self._is_settled):
            logger.error("ZooKeeper is away; it is connected to as soon as it answers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        if self._settling is not None:
            await self._settling.stop()
        await self._cache.close()
        await self._creates.close()
        await self._session.stop()
        self._queues.close()

    @property
    def notes(self) -> str:
        return "; ".join(filter(None, (self._cache.skipped.note, self._acl_repair.note)))

    async def put(self, node: Node) -> None:
        """A foreign node is never replaced: its program could not show its instance elsewhere.

        One request, or a part of one, if what is known of the node allows it.
        """
        self._check_settled()
        cached, connection = self._cache.cached, self._cache.cached.connection
        known = cached.get(node.service, node.instance_id)
        if known is not None and known.is_own and known.node == node:
            return
        path, data = self._path(node.service, node.instance_id), curator.to_json(node)
        if known is None or not known.is_own:
            with self._cache.creating(node.service, node.instance_id):
                if known is not None or not await self._create(node.service, path, data):
                    await self._put_after_reading(node, path, data)
                if connection is cached.connection:
                    cached.put_own(node)
            return
        # Another replica that has taken the node over meanwhile had a higher generation. So has one that takes it back.
        is_same_owner = known.node is not None and known.node.generation == node.generation
        is_done = is_same_owner and known.version is not None and await self._session.set(path, data, known.version)
        if not is_done:
            await self._put_after_reading(node, path, data)
        if connection is cached.connection:
            cached.put_own(node)

    async def remove(self, service: str, instance_id: str) -> None:
        self._check_settled()
        cached, connection = self._cache.cached, self._cache.cached.connection
        known, path = cached.get(service, instance_id), self._path(service, instance_id)
        is_done = known is not None and known.version is not None and await self._session.delete(path, known.version)
        if (is_done or await self._remove_after_reading(path)) and connection is cached.connection:
            cached.remove(service, [instance_id])

    async def nodes(self, service: str) -> Sequence[Node]:
        self._check_settled()
        return self._cache.cached.nodes(service)

    async def services(self) -> Sequence[str]:
        self._check_settled()
        return self._cache.cached.services

    async def replicas(self) -> frozenset[str]:
        self._check_settled()
        try:
            return frozenset(await self._session.children(self._replicas_path))
        except NoNodeError as error:
            # Another client has removed the path. It is created again.
            raise Unavailable(f"{self._replicas_path} is missing", "REGISTRY_UNAVAILABLE") from error

    def events(self) -> AsyncIterator[RegistryEvent]:
        return self._queues.subscribe()

    async def ping(self) -> None:
        self._check_settled()
        await self._session.exists(self._replicas_path)

    def _on_state(self, state: str) -> None:
        if self._is_closed:
            return
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._cache.reset()
        self._acl_repair.reset()
        if state == KazooState.CONNECTED:
            self._settling = self._supervisor.supervise("zookeeper connection", self._on_connected, may_return=True)
            return
        self._session.mark_unusable()
        self._is_settled.clear()
        self._set_state(SessionState.LOST if state == KazooState.LOST else SessionState.SUSPENDED)

    async def _on_connected(self) -> None:
        """Shows this replica, and sets all watches. Only then is the session CONNECTED for its users."""
        self._session.is_reachable = True
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                await self._settle()
                break
            except (Unavailable, KazooException) as error:
                if str(error) != self._session.problem:
                    logger.warning("ZooKeeper is connected, but calls fail: %s", error)
                self._session.problem = str(error)
                await self._clock.sleep(backoff.next())
        self._session.mark_usable()
        self._is_settled.set()
        self._set_state(SessionState.CONNECTED)
        for service in sorted(self._cache.services):
            self._queues.publish(NodesChanged(service))
        self._queues.publish(ReplicasChanged())

    async def _settle(self) -> None:
        try:
            await self._session.ensure(self._base)
        except Unavailable as error:
            if error.reason != "REGISTRY_FORBIDDEN":
                raise
            path = f"the path of ZOOKEEPER_HOSTS with ZOOKEEPER_BASE_PATH, {self._base},"
            raise Unavailable(f"{path} can't be made or read: {error}", error.reason) from error
        await self._show_replica()
        for path in (self._base, self._replicas_path):
            await self._acl_repair.restrict(path)
        await self._cache.watch_all()

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
        raise _contended(path)

    async def _create(self, service: str, path: str, data: bytes) -> bool:
        parent = f"{self._base}/{service}"
        if service not in self._cache.services:
            await self._session.ensure(parent)
        if not await self._creates.create(path, data):
            return False
        await self._acl_repair.restrict(parent)
        return True

    async def _put_after_reading(self, node: Node, path: str, data: bytes) -> None:
        for _ in range(ATTEMPTS):
            try:
                current, stat = await self._session.get(path)
            except NoNodeError:
                if await self._create(node.service, path, data):
                    return
                continue
            if stat.ephemeralOwner == self._session.id:
                if await self._session.set(path, data, stat.version):
                    return
                continue
            self._check_replaceable(node, current)
            if await self._creates.replace(path, data, stat.version):
                return
        raise _contended(path)

    async def _remove_after_reading(self, path: str) -> bool:
        """Whether there is no node of this session now, as far as this session knows."""
        for _ in range(ATTEMPTS):
            try:
                _, stat = await self._session.get(path)
            except NoNodeError:
                return True
            if stat.ephemeralOwner != self._session.id:
                return False
            if await self._session.delete(path, stat.version):
                return True
        raise _contended(path)

    def _check_replaceable(self, node: Node, data: bytes) -> None:
        """Raises `FailedPrecondition` if `node` must not replace the node with this data."""
        try:
            current = curator.from_json(node.service, node.instance_id, data)
        except ValueError:
            current = Node(node.service, node.instance_id, "", 0)
        if not current.owner or current.generation > node.generation:
            holder = f"'{current.owner}'" if current.owner else "another program"
            raise FailedPrecondition(f"{holder} holds instance '{node.instance_id}' of '{node.service}'", "NOT_OWNER")

    def _check_settled(self) -> None:
        """Raises `Unavailable` until everything was read: a partial answer would be wrong."""
        if not self._is_settled.is_set() or self._is_closed:
            raise self._session.unavailable()

    def _path(self, service: str, instance_id: str) -> str:
        return f"{self._base}/{service}/{instance_id}"

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self._queues.publish(SessionChanged(state))


def _contended(path: str) -> Unavailable:
    return Unavailable(f"node {path} is changed by other clients all the time", "REGISTRY_UNAVAILABLE")
