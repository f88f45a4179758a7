"""The instances that other programs show in the registry: neither on record nor in the change log.

Who shows them says when they come, change and go; this service only passes it on. An id that is registered here, too,
is the registration's for as long as that lasts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from configsvc.clock import Clock
from configsvc.domain import instances
from configsvc.domain.instances import Instance
from configsvc.registry.port import Node

NOTHING: Mapping[str, Instance] = {}


class ForeignInstances:
    """By service and instance id, as they were seen last. `told` hears which service has changed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._services: dict[str, Mapping[str, Instance]] = {}
        self._listeners: list[Callable[[str], None]] = []

    @property
    def services(self) -> tuple[str, ...]:
        """The services that have some."""
        return tuple(self._services)

    def of(self, service: str) -> Mapping[str, Instance]:
        """Those of a service by id. A new mapping after each change, so it may be kept."""
        return self._services.get(service, NOTHING)

    def follow(self, told: Callable[[str], None]) -> None:
        """Calls `told` with the name of each service that changes from now on."""
        self._listeners.append(told)

    def take(self, service: str, nodes: Iterable[Node]) -> None:
        """These are a service's nodes now; those with an owner are no foreign ones."""
        known, now = self.of(service), self._clock.now()
        found: dict[str, Instance] = {}
        for node in nodes:
            if node.owner:
                continue
            instance = instances.foreign(service, node.instance_id, node.payload, now)
            before = known.get(node.instance_id)
            if before is not None:
                # If it does not say when it registered, it did when it was first seen.
                at = instance.registered_at if "registered_at" in node.payload else before.registered_at
                same = replace(instance, registered_at=at, last_heartbeat_at=before.last_heartbeat_at)
                instance = before if same == before else replace(instance, registered_at=at)
            found[node.instance_id] = instance
        if found == known:
            return
        if found:
            self._services[service] = found
        else:
            self._services.pop(service, None)
        for told in self._listeners:
            told(service)
