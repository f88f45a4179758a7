"""The components whose health is checked, and what users notice while one of them is down."""

from configsvc.app.changelog.outbox.health import OutboxHealth
from configsvc.app.changelog.position import LogPosition
from configsvc.app.health import Component
from configsvc.bus.port import Bus
from configsvc.cache.port import Cache
from configsvc.registry.port import ServiceRegistryClient
from configsvc.storage.port import Storage
from configsvc.tasks import Supervisor


def health_components(
    *,
    storage: Storage,
    cache: Cache | None,
    bus: Bus,
    outbox: OutboxHealth | None,
    registry: ServiceRegistryClient,
    log: LogPosition,
    supervisor: Supervisor,
) -> tuple[Component, ...]:
    """The backends and the background tasks of a replica. `outbox`: if changes are published to the bus."""

    async def without_storage() -> str:
        if log.stale_since is None:
            return "writes are refused; reads go on"
        return "writes are refused; reads are answered from the caches, marked stale"

    async def without_cache() -> str:
        return "no copies are left for other replicas; nothing else is missing"

    async def without_bus() -> str:
        return f"changes of other replicas are seen by polling; revision {log.applied} is applied"

    async def without_registry() -> str:
        return "instances are shown as they are on record, marked stale; no lease ends meanwhile"

    components = [Component("storage", storage.name, storage.ping, without_storage)]
    if cache is not None:
        components.append(Component("cache", cache.name, cache.ping, without_cache))
    if outbox is None:
        components.append(Component("bus", bus.name, bus.ping, without_bus))
    else:
        components.append(Component("bus", bus.name, outbox.ping, outbox.effect, outbox.degradation, outbox.note))
    components.append(
        Component("registry", registry.name, registry.ping, without_registry, note=lambda: registry.notes)
    )
    # A task that fails is restarted, so that the tasks are never down.
    components.append(Component("tasks", "in process", degradation=lambda: "; ".join(map(str, supervisor.failures))))
    return tuple(components)
