"""The embedded registry: sessions of one process, with the behaviour of ZooKeeper's sessions."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from configsvc.errors import FailedPrecondition, Unavailable
from configsvc.registry.events import EventQueues
from configsvc.registry.port import Node, NodesChanged, RegistryEvent, ReplicasChanged, SessionChanged, SessionState


class LocalRegistry:
    """The nodes and sessions that all clients share. Each node belongs to one session, and vanishes with it.

    `nodes`: by service and instance id. `ids`: those that each service has, or had a moment ago.
    """

    def __init__(self) -> None:
        self.nodes: dict[tuple[str, str], tuple[Node, LocalRegistryClient]] = {}
        self.ids: defaultdict[str, set[str]] = defaultdict(set)
        self.sessions: dict[str, LocalRegistryClient] = {}

    def of(self, service: str) -> list[Node]:
        """The nodes of a service, in the order of instance id."""
        ids = self.ids.get(service, set())
        ids.intersection_update([instance_id for instance_id in ids if (service, instance_id) in self.nodes])
        if not ids:
            self.ids.pop(service, None)
        return [self.nodes[service, instance_id][0] for instance_id in sorted(ids)]

    def publish(self, event: RegistryEvent) -> None:
        """Sends an event to every session."""
        for session in tuple(self.sessions.values()):
            session.publish(event)


class LocalRegistryClient:
    """One replica's session. See `port.ServiceRegistryClient`.

    `suspend`, `resume` and `expire` do what a network and a ZooKeeper server do to a session.
    """

    name = "local"
    notes = ""

    def __init__(self, registry: LocalRegistry, replica_id: str) -> None:
        self._registry = registry
        self.replica_id = replica_id
        self._state = SessionState.LOST
        self._queues = EventQueues()

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.expire()
        self._queues.close()

    async def put(self, node: Node) -> None:
        self._check_connected()
        held, holder = self._registry.nodes.get((node.service, node.instance_id), (None, self))
        if held is not None and holder is not self and held.generation > node.generation:
            raise FailedPrecondition(
                f"'{held.owner}' holds instance '{node.instance_id}' of '{node.service}'", "NOT_OWNER"
            )
        self._registry.nodes[node.service, node.instance_id] = (node, self)
        self._registry.ids[node.service].add(node.instance_id)
        self._registry.publish(NodesChanged(node.service))

    async def remove(self, service: str, instance_id: str) -> None:
        self._check_connected()
        _, holder = self._registry.nodes.get((service, instance_id), (None, None))
        if holder is self:
            del self._registry.nodes[service, instance_id]
            self._registry.publish(NodesChanged(service))

    async def nodes(self, service: str) -> Sequence[Node]:
        self._check_connected()
        return self._registry.of(service)

    async def services(self) -> Sequence[str]:
        self._check_connected()
        return sorted({service for service, _ in self._registry.nodes})

    async def replicas(self) -> frozenset[str]:
        self._check_connected()
        return frozenset(self._registry.sessions)

    def events(self) -> AsyncIterator[RegistryEvent]:
        return self._queues.subscribe()

    async def ping(self) -> None:
        self._check_connected()

    def publish(self, event: RegistryEvent) -> None:
        """Sends an event to this session's subscribers."""
        self._queues.publish(event)

    def suspend(self) -> None:
        """Loses the connection, as behind a broken network: nodes stay, calls fail."""
        self._set_state(SessionState.SUSPENDED)

    def resume(self) -> None:
        """Connects again: the same session if it was suspended, a new one if it had expired."""
        if self._state is SessionState.LOST:
            self._open()
        else:
            self._set_state(SessionState.CONNECTED)

    def expire(self) -> None:
        """Ends the session: its nodes vanish, and the other sessions get events."""
        if self._registry.sessions.get(self.replica_id) is not self:
            return
        del self._registry.sessions[self.replica_id]
        own = [key for key, (_, holder) in self._registry.nodes.items() if holder is self]
        for key in own:
            del self._registry.nodes[key]
        self._set_state(SessionState.LOST)
        for service in dict.fromkeys(service for service, _ in own):
            self._registry.publish(NodesChanged(service))
        self._registry.publish(ReplicasChanged())

    def _open(self) -> None:
        self._registry.sessions[self.replica_id] = self
        self._set_state(SessionState.CONNECTED)
        self._registry.publish(ReplicasChanged())

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self.publish(SessionChanged(state))

    def _check_connected(self) -> None:
        if self._state is not SessionState.CONNECTED:
            raise Unavailable("the registry can't be reached", "REGISTRY_UNAVAILABLE")
