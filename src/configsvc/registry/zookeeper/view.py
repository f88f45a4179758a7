"""What this replica sees of ZooKeeper: everything is watched, and held as it was read.

WatchStreams fire once, and are gone with a lost connection. So each one that fires is set again before its event is handed
on, and all of them are set, and every service is called changed, on each new connection.

ZooKeeper tells of a change before it answers anything that comes after it, and both take the same way to the loop. So what
a service looks like is one read however many nodes it has, and an instance that comes costs the reading of one node.

Others write there what they like. What can't be read, or not asked for by its name, is left out, counted, and named in
the log once.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from configsvc_client.evaluation.field_rules import name_problem
from kazoo.exceptions import KazooException, NoNodeError

from configsvc.domain.fields import SERVICE_NAME_CHARACTERS
from configsvc.errors import Unavailable
from configsvc.registry import curator
from configsvc.registry.port import Node, NodesChanged, RegistryEvent, ReplicasChanged
from configsvc.registry.zookeeper.session import Watch, ZookeeperSession
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

SETTLE_PAUSE_SECONDS = 0.2
# Of those that are left out, so many are named in `/health`; all of them are in the log.
NAMED = 3
SHOWN_CHARACTERS = 100


class ZookeeperView:
    """`show` shows this replica, should somebody have removed it; `tell` hears of what may have changed."""

    def __init__(
        self,
        session: ZookeeperSession,
        base: str,
        replicas_path: str,
        *,
        show: Callable[[], Coroutine[Any, Any, None]],
        tell: Callable[[RegistryEvent], None],
        supervisor: Supervisor,
    ) -> None:
        self._session = session
        self._base = base
        self._replicas_path = replicas_path
        self._show = show
        self._tell = tell
        self._supervisor = supervisor
        self.services: set[str] = set()
        # What is watched on this connection: services whose list of nodes is, and nodes as they were read (None: such as
        # are left out), by service and instance id.
        self._listed: set[str] = set()
        self._held: dict[str, dict[str, Node | None]] = {}
        # Watches being set, by the same names. One that fires before its answer is seen is none any more.
        self._setting: dict[str, object] = {}
        self._watches: dict[tuple[str, str], Watch] = {}
        self._following: set[SupervisedTask] = set()
        # By service and name; no name: the service itself.
        self._left_out: dict[tuple[str, str], str] = {}

    @property
    def is_read(self) -> bool:
        """Whether nothing is being read."""
        return not self._following

    @property
    def note(self) -> str:
        """How many are left out, and some of them; empty if none is."""
        if not self._left_out:
            return ""
        named = [f"'{_short(_path(*key))}' ({why})" for key, why in sorted(self._left_out.items())[:NAMED]]
        more = ", …" if len(self._left_out) > NAMED else ""
        count = len(self._left_out)
        nodes = "1 node can't be read, and is" if count == 1 else f"{count} nodes can't be read, and are"
        return f"{nodes} left out: {', '.join(named)}{more}"

    def held(self, service: str) -> Mapping[str, Node | None]:
        """Nodes as they are now. Others may be there, too."""
        return self._held.get(service, {})

    def forget(self) -> None:
        """The connection is gone, and all watches with it."""
        self._listed.clear()
        self._held.clear()
        self._setting.clear()

    async def watch_all(self) -> None:
        """Sets all watches. Raises kazoo's errors, and `Unavailable`."""
        await self._watch_replicas()
        await self._watch_services()

    async def close(self) -> None:
        """Follows nothing any more."""
        await asyncio.gather(*(kept.stop() for kept in tuple(self._following)))

    async def read(self, service: str, name: str) -> Node | None:
        """A node that is not held. None if it is gone or left out."""
        try:
            data, _ = await self._session.get(_path(self._base, service, name))
        except NoNodeError:
            return None
        except Unavailable as error:
            self._forbidden(error, service, name)
            return None
        return self._decoded(service, name, data)

    def can_be_asked_for(self, service: str) -> bool:
        """Whether a service's name is one that this service's callers may use."""
        if not name_problem(service, SERVICE_NAME_CHARACTERS):
            return True
        self._leave_out(service, "", "no service can have this name")
        return False

    def _watch(self, kind: str, name: str) -> Watch:
        """The watch for a path: always the same one, so that kazoo holds it once."""
        if (kind, name) not in self._watches:
            self._watches[kind, name] = self._session.watch(self._seen, kind, name)
        return self._watches[kind, name]

    def _seen(self, kind: str, name: str) -> None:
        if self._session.is_closed:
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
        task = self._supervisor.supervise(f"zookeeper {kind}", partial(self._followed, work), may_return=True)
        self._following.add(task)
        task.add_done_callback(self._following.discard)

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
        await self._show()
        await self._session.children(self._replicas_path, self._watch("replicas", ""))

    async def _watch_services(self) -> Sequence[str]:
        """Returns the services that are new."""
        try:
            names = await self._session.children(self._base, self._watch("services", ""))
        except NoNodeError:
            # Somebody has removed it all.
            await self._session.ensure(self._base)
            names = await self._session.children(self._base, self._watch("services", ""))
        for service, name in tuple(self._left_out):
            if service not in names:
                del self._left_out[service, name]
        found = {name for name in names if self.can_be_asked_for(name)}
        new = sorted(found - self.services)
        self.services |= found
        await asyncio.gather(*(self._watch_nodes(service) for service in sorted(self.services - self._listed)))
        return new

    async def _watch_nodes(self, service: str) -> None:
        setting = self._setting[service] = object()
        names: Sequence[str] = ()
        try:
            names = await self._session.children(f"{self._base}/{service}", self._watch("service", service))
        except NoNodeError:
            self.services.discard(service)
            self._setting.pop(service, None)
        except Unavailable as error:
            self._forbidden(error, service, "")
            self._setting.pop(service, None)
        else:
            if self._is_set(service, setting):
                self._listed.add(service)
            self._left_out.pop((service, ""), None)
        held = self._held.get(service, {})
        for gone in held.keys() - set(names):
            del held[gone]
            self._watches.pop(("node", f"{service}/{gone}"), None)
        if not held:
            self._held.pop(service, None)
        for key in [key for key in self._left_out if key[0] == service and key[1] and key[1] not in names]:
            del self._left_out[key]
        await asyncio.gather(*(self._watch_node(service, name) for name in names if name not in held))

    async def _watch_node(self, service: str, instance_id: str) -> None:
        key, setting = f"{service}/{instance_id}", object()
        self._setting[key] = setting
        node: Node | None = None
        try:
            data, _ = await self._session.get(f"{self._base}/{key}", self._watch("node", key))
        except NoNodeError:
            # Gone again; the children's watch tells.
            self._watches.pop(("node", key), None)
            self._setting.pop(key, None)
            return
        except Unavailable as error:
            self._forbidden(error, service, instance_id)
        else:
            node = self._decoded(service, instance_id, data)
        if self._is_set(key, setting):
            self._held.setdefault(service, {})[instance_id] = node

    def _is_set(self, name: str, setting: object) -> bool:
        """Whether a watch that has its answer has not fired since, and is of this connection."""
        if self._setting.get(name) is not setting:
            return False
        del self._setting[name]
        return True

    def _decoded(self, service: str, name: str, data: bytes) -> Node | None:
        try:
            node = curator.from_json(service, name, data)
        except ValueError as error:
            self._leave_out(service, name, str(error))
            return None
        self._left_out.pop((service, name), None)
        return node

    def _forbidden(self, error: Unavailable, service: str, name: str) -> None:
        """One path that may not be read is left out; what else is wrong is raised."""
        if error.reason != "REGISTRY_FORBIDDEN":
            raise error
        self._leave_out(service, name, "ZooKeeper forbids to read it")

    def _leave_out(self, service: str, name: str, why: str) -> None:
        why = _short(why)
        if self._left_out.get((service, name)) != why:
            logger.warning("'%s' in ZooKeeper is left out: %s", _short(_path(service, name)), why)
        self._left_out[service, name] = why


def _path(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _short(text: str) -> str:
    """For a log and for `/health`: it may come from outside."""
    plain = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return plain if len(plain) <= SHOWN_CHARACTERS else f"{plain[:SHOWN_CHARACTERS]}…"
