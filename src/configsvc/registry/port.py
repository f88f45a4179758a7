"""Where live instances show: nodes that go when the session that made them ends. Adapters: `local`, `zookeeper`.

The desired registrations are records in the store. A node is the projection of one, held by the replica that owns it,
and seen by everyone who reads the same registry, JVM services on Curator included. Each client is one session: when it
ends, all of its nodes go, and the others are told.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Node:
    """A live instance as the registry shows it.

    `owner` is the id of the replica that holds it; empty for a foreign one, made by another program. `generation`
    rises with each change of owner. `payload` is the instance's JSON.
    """

    service: str
    instance_id: str
    owner: str
    generation: int
    payload: Mapping[str, object] = field(default_factory=dict)


class SessionState(StrEnum):
    """SUSPENDED is not LOST: nodes are still there, and may stay."""

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class NodesChanged:
    """The nodes of a service may have changed: read them."""

    service: str


@dataclass(frozen=True, slots=True)
class ReplicasChanged:
    """The set of live replicas may have changed: read it."""


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """The session's state. After LOST all own nodes are gone: put them again once CONNECTED comes."""

    state: SessionState


RegistryEvent = NodesChanged | ReplicasChanged | SessionChanged


class ServiceRegistryClient(Protocol):
    """One replica's session with the registry. Entering the context opens it and shows the replica as live."""

    @property
    def name(self) -> str:
        """What it is, for people: `local`, `zookeeper`."""
        ...

    @property
    def replica_id(self) -> str:
        """The id under which this replica shows."""
        ...

    @property
    def notes(self) -> str:
        """What people should know though it works, such as nodes that can't be read; empty if there is nothing."""
        ...

    async def put(self, node: Node) -> None:
        """Shows a node as this session's, in place of an older one without a gap.

        Raises:
            FailedPrecondition: another live session holds it under a higher generation (reason `NOT_OWNER`).
            Unavailable: the registry is away.
        """
        ...

    async def remove(self, service: str, instance_id: str) -> None:
        """Takes back a node of this session; nothing happens where there is none.

        Raises:
            Unavailable: the registry is away.
        """
        ...

    async def nodes(self, service: str) -> Sequence[Node]:
        """The live nodes of a service, own and others', in the order of instance id. Raises `Unavailable`.

        A node that can't be read is left out; see `notes`.
        """
        ...

    async def services(self) -> Sequence[str]:
        """The services that have nodes, in order. Raises `Unavailable`."""
        ...

    async def replicas(self) -> frozenset[str]:
        """The ids of the live replicas, this one included. Raises `Unavailable`."""
        ...

    def events(self) -> AsyncIterator[RegistryEvent]:
        """What happens from this call on. Events may be merged, never lost. Ends when the session is closed."""
        ...

    async def ping(self) -> None:
        """Returns where the registry answers; raises `Unavailable` where it does not."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
