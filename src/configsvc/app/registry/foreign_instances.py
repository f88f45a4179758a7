"""Foreign instances: other programs show them in the registry. They are neither on record nor in the change log.

Their programs say when they come, change and go. This service only passes that on. If an id is registered here, too, the
registration hides the foreign instance for as long as it lasts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from configsvc.clock import Clock
from configsvc.domain.instances import Instance
from configsvc.registry.port import Node

NO_INSTANCES: Mapping[str, Instance] = {}


class ForeignInstances:
    """The foreign instances of each service, as they were last read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._services: dict[str, Mapping[str, Instance]] = {}
        self._on_change: list[Callable[[str], None]] = []

    @property
    def services(self) -> tuple[str, ...]:
        """The services that have foreign instances."""
        return tuple(self._services)

    def of(self, service: str) -> Mapping[str, Instance]:
        """A service's foreign instances by id. The mapping is never changed: each change makes a new one."""
        return self._services.get(service, NO_INSTANCES)

    def subscribe(self, on_change: Callable[[str], None]) -> None:
        """Calls `on_change` with the name of each service that changes from now on."""
        self._on_change.append(on_change)

    def update(self, service: str, nodes: Iterable[Node]) -> None:
        """These are a service's nodes now. Nodes with an owner are not foreign."""
        known, now = self.of(service), self._clock.now()
        current: dict[str, Instance] = {}
        for node in nodes:
            if node.owner:
                continue
            instance = Instance.foreign(service, node.instance_id, node.payload, now)
            before = known.get(node.instance_id)
            if before is not None:
                # Without a time of registration, the time when it was first seen stays.
                at = instance.registered_at if "registered_at" in node.payload else before.registered_at
                instance = replace(instance, registered_at=at)
                is_unchanged = replace(instance, last_heartbeat_at=before.last_heartbeat_at) == before
                instance = before if is_unchanged else instance
            current[node.instance_id] = instance
        if current == known:
            return
        if current:
            self._services[service] = current
        else:
            self._services.pop(service, None)
        for on_change in self._on_change:
            on_change(service)
