"""The registry of live instances: nodes that vanish when the session that made them ends. Adapters: `local`, `zookeeper`.

The desired registrations are records in the store. A node is the projection of a record: it is made by the replica that
owns the instance, and read by everyone who uses the same registry, including JVM services on Curator. Each client is one
session. When a session ends, all of its nodes vanish, and the other sessions get events.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Node:
    """A live instance as the registry shows it.

    `owner` is the id of the replica that made the node; it is empty for a foreign node, which another program made.
    `generation` rises with each change of owner. `payload` is the instance's JSON.
    """

    service: str
    instance_id: str
    owner: str
    generation: int
    payload: Mapping[str, object] = field(default_factory=dict)


class SessionState(StrEnum):
    """The state of a session. SUSPENDED is not LOST: the session's nodes still exist, and may survive."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class NodesChanged:
    """The nodes of a service may have changed: read them. A session that creates a node may send itself no event."""

    service: str


@dataclass(frozen=True, slots=True)
class ReplicasChanged:
    """The set of live replicas may have changed: read it."""


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """The session's state has changed. After LOST all own nodes are gone: put them again after the next CONNECTED."""

    state: SessionState


RegistryEvent = NodesChanged | ReplicasChanged | SessionChanged


class ServiceRegistryClient(Protocol):
    """One replica's session with the registry. Entering the context opens it and shows the replica as live."""

    @property
    def name(self) -> str:
        """The adapter's name, for people: `local`, `zookeeper`."""
        ...

    @property
    def replica_id(self) -> str:
        """The id under which this replica is shown."""
        ...

    @property
    def notes(self) -> str:
        """Problems that people should know although the registry works, such as unreadable nodes; empty if there are none."""
        ...

    async def put(self, node: Node) -> None:
        """Makes a node of this session. It replaces an older node without a gap.

        Raises:
            FailedPrecondition: another live session holds the node under a higher generation (reason `NOT_OWNER`).
            Unavailable: the registry is unreachable.
        """
        ...

    async def remove(self, service: str, instance_id: str) -> None:
        """Removes a node of this session. Does nothing if there is none.

        Raises:
            Unavailable: the registry is unreachable.
        """
        ...

    async def nodes(self, service: str) -> Sequence[Node]:
        """The live nodes of a service, own and others', in the order of instance id. Raises `Unavailable`.

        As this session has seen them: own changes at once, and those of others at the latest when their event is sent. A
        node that can't be read is left out; see `notes`.
        """
        ...

    async def services(self) -> Sequence[str]:
        """The services that have nodes, in order, as this session has seen them. Raises `Unavailable`."""
        ...

    async def replicas(self) -> frozenset[str]:
        """The ids of the live replicas, including this one. Raises `Unavailable`."""
        ...

    def events(self) -> AsyncIterator[RegistryEvent]:
        """The events from this call on. Equal events may be merged, and none is lost. Ends when the session is closed."""
        ...

    async def ping(self) -> None:
        """Returns if the registry answers; raises `Unavailable` if it does not."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
