"""What callers of services ask: which instances there are, which of them are well, and which one to call."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.registrations import Registrations, not_loaded
from configsvc.clock import Clock
from configsvc.domain.balancing import Balancer, checked_strategy, in_zone_first
from configsvc.domain.fields import checked
from configsvc.domain.instances import HEALTHY, UNHEALTHY, Instance, Listing, Picked, ServiceSummary, instance_of
from configsvc.domain.limits import Limits
from configsvc.domain.records import Record, Ref
from configsvc.errors import NotFound


class Discovery:
    """The reading half of the directory. A `Follower` of the registrations."""

    def __init__(
        self,
        *,
        registrations: Registrations,
        foreign: ForeignInstances,
        clock: Clock,
        limits: Limits,
        stale_seconds: float,
        seen_at: Callable[[Ref], datetime | None],
        is_out_of_touch: Callable[[], bool],
        catch_up: Callable[[], Awaitable[bool]],
    ) -> None:
        self._registrations = registrations
        self._foreign = foreign
        self._clock = clock
        self._limits = limits
        self._stale_seconds = stale_seconds
        self._seen_at = seen_at
        self._is_out_of_touch = is_out_of_touch
        self._has_news = catch_up
        self._fell_at: dict[Ref, float] = {}
        self._balancers: dict[str, Balancer] = {}

    def services(self) -> tuple[ServiceSummary, ...]:
        """All services that have instances, in the order of name."""
        named = {*self._registrations.services, *self._foreign.services}
        if not self._registrations.is_loaded and not named:
            raise not_loaded()
        found = {name: self.instances(name) for name in sorted(named)}
        return tuple(
            ServiceSummary(name, len(listed), sum(instance.status == HEALTHY for instance in listed))
            for name, listed in found.items()
        )

    async def service(self, name: str) -> Listing:
        """Every instance, whatever its status. Raises `NotFound`."""
        found = await self._found(name)
        if not found:
            raise _service_not_found(name)
        return Listing(found, self._is_out_of_touch(), self._registrations.revision)

    async def discover(
        self, name: str, *, metadata: Mapping[str, str] | None = None, zone: str = "", version: str = ""
    ) -> Listing:
        """The healthy instances. Where failing checks left none, those that were healthy last, marked, for a while.

        They are marked, too, while the store or the registry is away.
        """
        found = await self._found(name)
        serving = tuple(instance for instance in found if instance.status == HEALTHY)
        stale = self._is_out_of_touch()
        if not serving:
            limit = self._clock.monotonic() - self._stale_seconds
            serving = tuple(i for i in found if self._fell_at.get(i.ref, limit) > limit)
            stale = stale or bool(serving)
        wanted = (metadata or {}).items()
        matching = tuple(
            instance
            for instance in serving
            if wanted <= instance.metadata.items() and zone in ("", instance.zone) and version in ("", instance.version)
        )
        return Listing(matching, stale, self._registrations.revision)

    async def pick(self, name: str, *, strategy: str = "", hash_key: str = "", zone: str = "") -> Picked:
        """One instance by a strategy, the caller's zone first. Raises `NotFound` where there is none to give."""
        strategy = checked_strategy(strategy, hash_key)
        listing = await self.discover(name)
        if not listing.instances:
            raise NotFound(f"service '{name}' has no healthy instance", "NO_HEALTHY_INSTANCE", {"service_name": name})
        balancer = self._balancers.setdefault(name, Balancer())
        chosen = balancer.pick(in_zone_first(listing.instances, zone), strategy, hash_key)
        return Picked(chosen.service_url, chosen.instance_id, strategy, listing.stale, listing.revision)

    def taken(self, record: Record, before: Record | None) -> None:
        """See `Follower`."""
        was, status = before.body["status"] if before else HEALTHY, record.body["status"]
        if status == HEALTHY:
            self._fell_at.pop(record.ref, None)
        elif was == HEALTHY and status == UNHEALTHY:
            self._fell_at[record.ref] = self._clock.monotonic()

    def dropped(self, record: Record) -> None:
        """See `Follower`."""
        self._fell_at.pop(record.ref, None)
        if record.ref.service not in self._registrations.services:
            self._balancers.pop(record.ref.service, None)

    async def _found(self, service: str) -> tuple[Instance, ...]:
        """A service's instances. Where none are known, the log is looked at before anyone is told so."""
        with checked(self._limits) as fields:
            fields.service(service, required=True)
        return self.instances(service) or (self.instances(service) if await self._has_news() else ())

    def instances(self, service: str) -> tuple[Instance, ...]:
        """Those on record, and those that other programs show in the registry, in the order of id."""
        records = self._registrations.of(service)
        own = [instance_of(record, self._seen_at(record.ref)) for record in records.values()]
        foreign = [i for i in self._foreign.of(service).values() if i.instance_id not in records]
        return tuple(sorted((*own, *foreign), key=lambda instance: instance.instance_id))


def _service_not_found(name: str) -> NotFound:
    return NotFound(f"service '{name}' has no instances", "SERVICE_NOT_FOUND", {"service_name": name})
