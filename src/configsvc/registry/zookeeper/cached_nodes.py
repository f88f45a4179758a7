"""The nodes as this session has seen them: what was read, and what the session itself wrote.

So the session's own nodes need not be read before they are written. What is known of a node ends as soon as its watch
fires, or the connection is lost.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from configsvc.registry.port import Node


@dataclass(frozen=True, slots=True)
class CachedNode:
    """A node.

    `node`: None if it is left out. `is_own`: this session made it. `is_watched`: a change of it will be seen. `version`:
    that of the data, if the node is own and watched; None if it is not known.
    """

    node: Node | None
    is_own: bool = False
    is_watched: bool = False
    version: int | None = None


class CachedNodes:
    """The nodes by service and instance id.

    `connection` is another object on each connection: what was asked on an earlier one must not be put here.
    """

    def __init__(self) -> None:
        self.connection = object()
        self._services: dict[str, dict[str, CachedNode]] = {}
        # Own nodes that are not watched yet.
        self.unwatched: dict[tuple[str, str], None] = {}
        self.has_unwatched = asyncio.Event()

    def clear(self) -> None:
        """The connection is lost."""
        self.connection = object()
        self._services.clear()
        self.unwatched.clear()

    def get(self, service: str, instance_id: str) -> CachedNode | None:
        """One node; None if it is not known."""
        return self._services.get(service, {}).get(instance_id)

    def of(self, service: str) -> Mapping[str, CachedNode]:
        """The nodes of a service, by instance id."""
        return self._services.get(service, {})

    @property
    def services(self) -> Sequence[str]:
        """The services that have nodes, in order."""
        return sorted(self._services)

    def nodes(self, service: str) -> Sequence[Node]:
        """The nodes of a service that are not left out, in the order of instance id."""
        found = sorted(self._services.get(service, {}).items())
        return [cached.node for _, cached in found if cached.node is not None]

    def put(self, service: str, instance_id: str, cached: CachedNode) -> None:
        """A node was read, and is watched now."""
        self._services.setdefault(service, {})[instance_id] = cached
        self.unwatched.pop((service, instance_id), None)

    def put_own(self, node: Node) -> None:
        """This session wrote its node. If the node was watched, the watch has fired for that."""
        self._services.setdefault(node.service, {})[node.instance_id] = CachedNode(node, is_own=True)
        self.unwatched[node.service, node.instance_id] = None
        self.has_unwatched.set()

    def mark_outdated(self, service: str, instance_id: str) -> None:
        """The node has changed, or is gone. It is shown as it was until it has been read again."""
        known = self.get(service, instance_id)
        if known is not None:
            self._services[service][instance_id] = replace(known, is_own=False, is_watched=False, version=None)
        self.unwatched.pop((service, instance_id), None)

    def remove(self, service: str, instance_ids: Iterable[str]) -> None:
        """These nodes are gone."""
        nodes = self._services.get(service, {})
        for instance_id in instance_ids:
            nodes.pop(instance_id, None)
            self.unwatched.pop((service, instance_id), None)
        if not nodes:
            self._services.pop(service, None)

    def to_read(self, service: str, names: Collection[str]) -> list[str]:
        """Which of these nodes must be read: those that are not known, or have changed."""
        known = self._services.get(service, {})
        return [name for name in names if not ((cached := known.get(name)) and (cached.is_watched or cached.is_own))]
