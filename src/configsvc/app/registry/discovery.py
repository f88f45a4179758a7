"""The reading half of the service registry: which instances there are, which are healthy, and which one to call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from configsvc.app.changelog.position import AppliedLog
from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.leases.leases import Leases
from configsvc.app.registry.registrations import Registrations, not_loaded
from configsvc.clock import Clock
from configsvc.domain.balancing import Balancer, checked_strategy, in_zone_first
from configsvc.domain.fields import checked
from configsvc.domain.instances import HEALTHY, UNHEALTHY, Instance, Listing, Picked, ServiceSummary
from configsvc.domain.limits import Limits
from configsvc.domain.records import Record, Ref
from configsvc.errors import NotFound


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The instances of a service, in the order of id. It is another object as soon as one of them has changed.

    A registration is given as its record, and a foreign instance as itself. A registration hides a foreign instance of the
    same id. `serving`: those of them that are HEALTHY. When each last sent a heartbeat is not part of it.
    """

    members: tuple[Record | Instance, ...]
    serving: tuple[Record | Instance, ...]


class Discovery:
    """Reads registered and foreign instances. Observes the registrations.

    If failing checks leave no healthy instance, those that failed within the last `stale_seconds` are returned, marked
    stale. `is_out_of_touch`: whether the store or the registry is unreachable.
    """

    def __init__(
        self,
        *,
        registrations: Registrations,
        foreign: ForeignInstances,
        leases: Leases,
        clock: Clock,
        limits: Limits,
        stale_seconds: float,
        is_out_of_touch: Callable[[], bool],
        log: AppliedLog,
    ) -> None:
        self._registrations = registrations
        self._foreign = foreign
        self._leases = leases
        self._clock = clock
        self._limits = limits
        self._stale_seconds = stale_seconds
        self._is_out_of_touch = is_out_of_touch
        self._log = log
        # When an instance became UNHEALTHY.
        self._failed_at: dict[Ref, float] = {}
        self._balancers: dict[str, Balancer] = {}
        self._views: dict[str, ServiceView] = {}
        foreign.subscribe(self._forget_view)

    @property
    def revision(self) -> int:
        """The revision that the registrations are read at."""
        return self._registrations.revision

    @property
    def history(self) -> str:
        """The history of the log that the registrations belong to."""
        return self._registrations.history

    def services(self) -> tuple[ServiceSummary, ...]:
        """All services that have instances, in the order of name."""
        names = {*self._registrations.services, *self._foreign.services}
        if not self._registrations.is_loaded and not names:
            raise not_loaded()
        views = {name: self.view(name) for name in sorted(names)}
        return tuple(ServiceSummary(name, len(view.members), len(view.serving)) for name, view in views.items())

    async def service(self, name: str) -> Listing:
        """Every instance, whatever its status. Raises `NotFound`."""
        if not (members := (await self._find(name)).members):
            raise _service_not_found(name)
        return Listing(self._instances(members), self._is_out_of_touch(), self._registrations.revision)

    async def discover(
        self, name: str, *, metadata: Mapping[str, str] | None = None, zone: str = "", version: str = ""
    ) -> Listing:
        """The healthy instances; if failing checks left none, those that failed a short time ago, marked stale.

        While the store or the registry is unreachable, every answer is marked stale.
        """
        view = await self._find(name)
        serving, stale = view.serving, self._is_out_of_touch()
        if not serving:
            limit = self._clock.monotonic() - self._stale_seconds
            serving = tuple(member for member in view.members if self._failed_at.get(member.ref, limit) > limit)
            stale = stale or bool(serving)
        required = (metadata or {}).items()
        matching = tuple(
            instance
            for instance in self._instances(serving)
            if required <= instance.metadata.items()
            and zone in ("", instance.zone)
            and version in ("", instance.version)
        )
        return Listing(matching, stale, self._registrations.revision)

    def peek(self, name: str) -> ServiceView | None:
        """The view from which `discover` and `pick` answer now; None if they would wait, or mark the answer stale."""
        if self._is_out_of_touch():
            return None
        view = self.view(name)
        return view if view.serving else None

    def last_heartbeat_at(self, member: Record | Instance) -> datetime:
        """When a member of a view sent its last heartbeat, as far as this replica knows."""
        if isinstance(member, Record):
            return self._leases.last_heartbeat_at(member.ref) or member.updated_at
        return member.last_heartbeat_at

    async def pick(self, name: str, *, strategy: str = "", hash_key: str = "", zone: str = "") -> Picked:
        """One healthy instance by a strategy, the caller's zone first. Raises `NotFound` if there is none."""
        strategy = checked_strategy(strategy, hash_key)
        listing = await self.discover(name)
        if not listing.instances:
            raise NotFound(f"service '{name}' has no healthy instance", "NO_HEALTHY_INSTANCE", {"service_name": name})
        chosen = self.pick_from(name, listing.instances, strategy, hash_key, zone)
        return Picked(chosen.service_url, chosen.instance_id, strategy, listing.stale, listing.revision)

    def pick_from(self, name: str, instances: Sequence[Instance], strategy: str, hash_key: str, zone: str) -> Instance:
        """One of a service's instances, which are not none, in the order of id. It is the service's next turn."""
        balancer = self._balancers.get(name)
        if balancer is None:
            balancer = self._balancers[name] = Balancer()
        return balancer.pick(in_zone_first(instances, zone), strategy, hash_key)

    def on_put(self, record: Record, before: Record | None) -> None:
        """Remembers when an instance became UNHEALTHY."""
        self._forget_view(record.ref.service)
        was, status = before.body["status"] if before else HEALTHY, record.body["status"]
        if status == HEALTHY:
            self._failed_at.pop(record.ref, None)
        elif was == HEALTHY and status == UNHEALTHY:
            self._failed_at[record.ref] = self._clock.monotonic()

    def on_remove(self, record: Record) -> None:
        """Forgets the instance, and the balancer of a service without instances."""
        self._forget_view(record.ref.service)
        self._failed_at.pop(record.ref, None)
        if record.ref.service not in self._registrations.services:
            self._balancers.pop(record.ref.service, None)

    def instances(self, service: str) -> tuple[Instance, ...]:
        """Registered and foreign instances in the order of id. A registration hides a foreign instance of the same id."""
        return self._instances(self.view(service).members)

    def view(self, service: str) -> ServiceView:
        """A service's instances as they are known now. Raises `Unavailable` if none were read yet."""
        view = self._views.get(service)
        if view is None:
            records = self._registrations.of(service)
            foreign = {name: one for name, one in self._foreign.of(service).items() if name not in records}
            known: Mapping[str, Record | Instance] = {**records, **foreign}
            members = tuple(known[name] for name in sorted(known))
            view = ServiceView(members, tuple(member for member in members if _status(member) == HEALTHY))
            if members:
                self._views[service] = view
        return view

    def _forget_view(self, service: str) -> None:
        self._views.pop(service, None)

    def _instances(self, members: Iterable[Record | Instance]) -> tuple[Instance, ...]:
        return tuple(
            Instance.of(member, self._leases.last_heartbeat_at(member.ref)) if isinstance(member, Record) else member
            for member in members
        )

    async def _find(self, service: str) -> ServiceView:
        """A service's instances. If none are known, the log is read before that is the answer."""
        with checked(self._limits) as fields:
            fields.service(service, required=True)
        found = self.view(service)
        if not found.members and await self._log.catch_up():
            return self.view(service)
        return found


def _status(member: Record | Instance) -> str:
    return str(member.body.get("status", HEALTHY)) if isinstance(member, Record) else member.status


def _service_not_found(name: str) -> NotFound:
    return NotFound(f"service '{name}' has no instances", "SERVICE_NOT_FOUND", {"service_name": name})
