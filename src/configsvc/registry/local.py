"""The embedded registry: sessions of one process. What ZooKeeper does between machines, this does between objects."""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from configsvc.errors import FailedPrecondition, Unavailable
from configsvc.registry.events import EventQueues
from configsvc.registry.port import Node, NodesChanged, RegistryEvent, ReplicasChanged, SessionChanged, SessionState


class LocalRegistry:
    """What all sessions see. Each node belongs to one session and goes with it."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[str, str], tuple[Node, LocalRegistryClient]] = {}
        self.sessions: dict[str, LocalRegistryClient] = {}

    def tell(self, event: RegistryEvent) -> None:
        """Tells every session."""
        for session in tuple(self.sessions.values()):
            session.take(event)


class LocalRegistryClient:
    """One replica's session. See `port.ServiceRegistryClient` for the law."""

    name = "local"

    def __init__(self, registry: LocalRegistry, replica_id: str) -> None:
        self._registry = registry
        self.replica_id = replica_id
        self._state = SessionState.LOST
        self._listeners = EventQueues()

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.expire()
        self._listeners.close()

    @property
    def notes(self) -> str:
        """See the port."""
        return ""

    async def put(self, node: Node) -> None:
        """See the port."""
        self._check()
        held, holder = self._registry.nodes.get((node.service, node.instance_id), (None, self))
        if held is not None and holder is not self and held.generation > node.generation:
            raise FailedPrecondition(
                f"'{held.owner}' holds instance '{node.instance_id}' of '{node.service}'", "NOT_OWNER"
            )
        self._registry.nodes[node.service, node.instance_id] = (node, self)
        self._registry.tell(NodesChanged(node.service))

    async def remove(self, service: str, instance_id: str) -> None:
        """See the port."""
        self._check()
        _, holder = self._registry.nodes.get((service, instance_id), (None, None))
        if holder is self:
            del self._registry.nodes[service, instance_id]
            self._registry.tell(NodesChanged(service))

    async def nodes(self, service: str) -> Sequence[Node]:
        """See the port."""
        self._check()
        found = (node for (name, _), (node, _) in self._registry.nodes.items() if name == service)
        return sorted(found, key=lambda node: node.instance_id)

    async def services(self) -> Sequence[str]:
        """See the port."""
        self._check()
        return sorted({service for service, _ in self._registry.nodes})

    async def replicas(self) -> frozenset[str]:
        """See the port."""
        self._check()
        return frozenset(self._registry.sessions)

    def events(self) -> AsyncIterator[RegistryEvent]:
        """See the port."""
        return self._listeners.listen()

    async def ping(self) -> None:
        """See the port."""
        self._check()

    def take(self, event: RegistryEvent) -> None:
        """Hears what happened."""
        self._listeners.tell(event)

    def suspend(self) -> None:
        """Loses contact, as behind a broken network: nodes stay, calls fail."""
        self._become(SessionState.SUSPENDED)

    def resume(self) -> None:
        """Contact again: the same session where it was suspended, a new one where it had expired."""
        if self._state is SessionState.LOST:
            self._open()
        else:
            self._become(SessionState.CONNECTED)

    def expire(self) -> None:
        """The session ends: its nodes go, and the others are told."""
        if self._registry.sessions.get(self.replica_id) is not self:
            return
        del self._registry.sessions[self.replica_id]
        own = [key for key, (_, holder) in self._registry.nodes.items() if holder is self]
        for key in own:
            del self._registry.nodes[key]
        self._become(SessionState.LOST)
        for service in dict.fromkeys(service for service, _ in own):
            self._registry.tell(NodesChanged(service))
        self._registry.tell(ReplicasChanged())

    def _open(self) -> None:
        self._registry.sessions[self.replica_id] = self
        self._become(SessionState.CONNECTED)
        self._registry.tell(ReplicasChanged())

    def _become(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self.take(SessionChanged(state))

    def _check(self) -> None:
        if self._state is not SessionState.CONNECTED:
            raise Unavailable("the registry can't be reached", "REGISTRY_UNAVAILABLE")
