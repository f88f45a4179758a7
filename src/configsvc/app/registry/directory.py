"""The service registry's use cases: register, keep alive, expire, discover, pick.

What is registered is `registrations`', how long it stays `leases`', who owns it and what the registry shows `ownership`'s.
A change of status is a write like any other, so that every watcher sees it in its place; a sign of life is none.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Self, TypeVar

from configsvc.app.changelog.position import AppliedLog
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE, FallbackCache
from configsvc.app.registry.discovery import Discovery
from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.health_checks import HealthChecks, Thresholds
from configsvc.app.registry.keep_alive import KeepAlive, Streams
from configsvc.app.registry.leases import Leases
from configsvc.app.registry.ownership import Ownership
from configsvc.app.registry.registrations import Registrations, not_loaded
from configsvc.clock import Clock
from configsvc.domain import instances
from configsvc.domain.addresses import ANYONE, AddressRules
from configsvc.domain.fields import SERVICE_NAME_CHARACTERS, checked
from configsvc.domain.instances import (
    HEALTHY,
    SUSPECT,
    UNHEALTHY,
    CheckResult,
    Incarnation,
    Instance,
    Listing,
    Picked,
    Registration,
    ServiceSummary,
    incarnation_of,
    instance_of,
    instance_ref,
)
from configsvc.domain.json_values import digest
from configsvc.domain.limits import Limits
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import Author, Change, Mutation, Record, Ref, Remove, View
from configsvc.errors import NotFound, Unavailable
from configsvc.probes.port import Probe
from configsvc.registry.port import ServiceRegistryClient
from configsvc.storage.port import Heartbeats, Reader, Writer
from configsvc.tasks import BackgroundTasks, SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Directory:
    """All instances of all services, as this replica knows them; a `LogFollower`."""

    def __init__(
        self,
        *,
        writer: Writer,
        reader: Reader,
        registry: ServiceRegistryClient,
        probe: Probe,
        clock: Clock,
        limits: Limits,
        log: AppliedLog,
        thresholds: Thresholds,
        check_interval_seconds: float,
        default_ttl_seconds: int,
        stale_seconds: float,
        heartbeats: Heartbeats,
        check_timeout_seconds: float = 0.0,
        addresses: AddressRules = ANYONE,
        fallback_cache: FallbackCache = NO_FALLBACK_CACHE,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._kept: list[SupervisedTask] = []
        self._reloading: SupervisedTask | None = None
        self._registry = registry
        self._clock = clock
        self._limits = limits
        self._addresses = addresses
        self._default_ttl_seconds = default_ttl_seconds
        self._log = log
        self._background = BackgroundTasks("directory")
        self._registrations = Registrations(
            writer=writer,
            reader=reader,
            clock=clock,
            fallback_cache=fallback_cache,
            log=log,
            me=registry.replica_id,
        )
        self._checks = HealthChecks(
            probe=probe,
            clock=clock,
            thresholds=thresholds,
            interval_seconds=check_interval_seconds,
            timeout_seconds=check_timeout_seconds,
            owns=self._registrations.owns,
            told=self._looked_at,
            supervisor=self._supervisor,
        )
        self._leases = Leases(
            registrations=self._registrations,
            heartbeats=heartbeats,
            clock=clock,
            is_out_of_touch=lambda: self.is_out_of_touch,
            owes_check=self._checks.owes,
        )
        self._ownership = Ownership(
            registrations=self._registrations,
            registry=registry,
            clock=clock,
            background=self._background,
            supervisor=self._supervisor,
            grant=self._leases.grant,
        )
        self._streams = Streams(self._registrations, self._background)
        self._discovery = Discovery(
            registrations=self._registrations,
            foreign=self._ownership.foreign,
            clock=clock,
            limits=limits,
            stale_seconds=stale_seconds,
            seen_at=self._leases.seen_at,
            is_out_of_touch=lambda: self.is_out_of_touch,
            catch_up=log.catch_up,
        )
        for follower in (self._discovery, self._streams, self._leases, self._checks, self._ownership):
            self._registrations.follow(follower)

    async def __aenter__(self) -> Self:
        """Loads all registrations and takes over those that nobody keeps, each with a fresh lease.

        Where the store is away, what other replicas left in the shared cache is shown until it is back.
        """
        try:
            await self._registrations.load()
        except Unavailable as error:
            logger.warning("the registrations can't be read; those that other replicas knew are shown: %s", error)
            await self._registrations.load_copies()
        await self._ownership.news.begin()
        self._kept = [
            self._supervisor.supervise("lease sweep", self._leases.sweep),
            self._supervisor.supervise("registry follower", self._ownership.news.follow),
        ]
        await self._checks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._checks.__aexit__(kind, error, trace)
        await self._ownership.hand_on()
        await asyncio.gather(*(kept.stop() for kept in self._kept))
        await self._ownership.stop()
        if self._reloading is not None:
            await self._reloading.stop()
        await self._background.stop()

    async def register(
        self, registration: Registration, author: Author, precondition: Precondition = NO_PRECONDITION
    ) -> tuple[Instance, int]:
        """Registers an instance or replaces its registration without a gap; it is discoverable at once."""
        with checked(self._limits) as fields:
            instances.check(fields, registration, self._addresses)
            fields.author(author)
        registration = instances.complete(registration, self._default_ttl_seconds)
        ref = instance_ref(registration.service_name, registration.instance_id)
        if precondition is NO_PRECONDITION and (known := self._registrations.get(ref)) is not None:
            # The request is a sign of life, however long the write takes.
            self._leases.renew(known)
        me, live = self._registry.replica_id, self._ownership.live
        fingerprint = digest("register", asdict(registration), *precondition.contents) if author.request_id else ""
        seen: list[Record] = []

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            precondition.check(ref, current)
            seen[:] = [record for record in (current,) if record is not None]
            return instances.registering(registration, me, live, view)

        commit = await self._registrations.write(ref, author, decide, fingerprint)
        # A retry of one that changed nothing has neither changes nor a decision.
        known = seen[0] if seen else self._registrations.get(ref)
        record = commit.changes[0].record if commit.changes else known
        if record is None:
            raise _instance_not_found(ref.service, ref.key)
        self._leases.renew(record)
        await self._ownership.shown(ref)
        return self._instance(record), commit.revision

    async def deregister(
        self, service: str, instance_id: str, author: Author, precondition: Precondition = NO_PRECONDITION
    ) -> int:
        """Removes an instance at once; returns the revision. Raises `NotFound`."""
        ref = self._ref(service, instance_id, author)

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            if current is None:
                raise _instance_not_found(service, instance_id)
            precondition.check(ref, current)
            return (Remove(ref),)

        fingerprint = f"deregister {ref!r}{precondition.contents or ''}" if author.request_id else ""
        commit = await self._registrations.write(ref, author, decide, fingerprint)
        return commit.revision

    async def heartbeat(
        self,
        service: str,
        instance_id: str,
        precondition: Precondition = NO_PRECONDITION,
        *,
        of: Incarnation | None = None,
    ) -> tuple[Instance, int]:
        """Renews a lease; a suspect instance is healthy again.

        Raises `NotFound` if it has expired, or with `of` if that incarnation has left.
        """
        ref = self._ref(service, instance_id)
        record = self._registrations.get(ref)
        if record is None and await self._log.catch_up():
            record = self._registrations.get(ref)
        if record is None or (of is not None and incarnation_of(record) != of):
            raise _instance_not_found(service, instance_id) if self.is_loaded else not_loaded()
        precondition.check(ref, record)
        self._leases.renew(record)
        if record.body["status"] == SUSPECT:
            await self._registrations.set_status(
                incarnation_of(record), HEALTHY, "heartbeat", "it gives signs of life again", of=SUSPECT
            )
            record = self._registrations.get(ref) or record
        return self._instance(record), self._registrations.revision

    @asynccontextmanager
    async def keep_alive(self, service: str, instance_id: str) -> AsyncIterator[KeepAlive]:
        """An instance's stream. Raises `NotFound` if it is not there; so does its renewal once it has left."""
        instance, _ = await self.heartbeat(service, instance_id)
        incarnation = Incarnation(instance.ref, instance.incarnation)

        async def beat() -> Instance:
            return (await self.heartbeat(service, instance_id, of=incarnation))[0]

        async with self._streams.kept(incarnation, beat) as stream:
            yield stream

    async def unless_stopping(self, coming: Coroutine[Any, Any, T]) -> T:
        """See `Streams`."""
        return await self._streams.unless_stopping(coming)

    def shutdown(self) -> None:
        """See `Streams`."""
        self._streams.shutdown()

    @property
    def is_loaded(self) -> bool:
        """Whether all registrations were read since the start."""
        return self._registrations.is_loaded

    async def loaded(self) -> None:
        """Returns when they have been."""
        await self._registrations.loaded()

    @property
    def revision(self) -> int:
        """The revision at which the directory is read."""
        return self._registrations.revision

    @property
    def history(self) -> str:
        """The history of the log that it is of."""
        return self._registrations.history

    @property
    def foreign(self) -> ForeignInstances:
        """What other programs show."""
        return self._ownership.foreign

    @property
    def is_complete(self) -> bool:
        """Whether the registry can be reached, and all of it was read."""
        return self._ownership.news.is_complete

    def is_registered(self, service: str, instance_id: str) -> bool:
        """Whether an instance is on record."""
        return self._registrations.get(instance_ref(service, instance_id)) is not None

    @property
    def is_out_of_touch(self) -> bool:
        """Whether what is shown may be old: the store or the registry is away."""
        return not self.is_complete or self._log.stale_since is not None

    def services(self) -> tuple[ServiceSummary, ...]:
        """See `Discovery`."""
        return self._discovery.services()

    async def service(self, name: str) -> Listing:
        """See `Discovery`."""
        return await self._discovery.service(name)

    async def discover(
        self, name: str, *, metadata: Mapping[str, str] | None = None, zone: str = "", version: str = ""
    ) -> Listing:
        """See `Discovery`."""
        return await self._discovery.discover(name, metadata=metadata, zone=zone, version=version)

    async def pick(self, name: str, *, strategy: str = "", hash_key: str = "", zone: str = "") -> Picked:
        """See `Discovery`."""
        return await self._discovery.pick(name, strategy=strategy, hash_key=hash_key, zone=zone)

    async def check(self, name: str) -> tuple[CheckResult, ...]:
        """Looks at every instance now. Raises `NotFound` where the service has none."""
        listing = await self.service(name)
        results = await asyncio.gather(*(self._checks.look(instance) for instance in listing.instances))
        now = {i.instance_id: i.status for i in self._discovery.instances(name)}
        return tuple(replace(result, status=now.get(result.instance_id, result.status)) for result in results)

    def apply(self, changes: Sequence[Change]) -> None:
        """Takes in what the log says, in order."""
        self._registrations.apply(changes)

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to a revision: everything is read anew."""
        self._registrations.outdate()
        if self._reloading is not None:
            self._reloading.cancel()
        self._reloading = self._supervisor.supervise("registrations' reload", self._reload, may_return=True)

    async def _reload(self) -> None:
        await self._registrations.reload()
        await self._ownership.retract()
        self._ownership.news.meet()

    def _looked_at(self, instance: Instance, passed: bool, changed: bool) -> "asyncio.Future[None] | None":
        record = self._registrations.get(instance.ref)
        if record is None or not self._registrations.owns(record):
            return None
        looked_at = (instance.incarnation, instance.health_check_url)
        if (incarnation_of(record).number, record.body["health_check_url"]) != looked_at:
            # A late result: of an earlier incarnation, or of another URL.
            return None
        if passed:
            self._leases.renew(record)
        status = HEALTHY if passed else UNHEALTHY
        if not changed or record.body["status"] == status:
            return None
        reason = "its checks pass" if passed else "its checks fail"
        return asyncio.ensure_future(
            self._registrations.set_status(
                incarnation_of(record), status, "health-check", reason, as_owner_of=instance.health_check_url
            )
        )

    def _instance(self, record: Record) -> Instance:
        return instance_of(record, self._leases.seen_at(record.ref))

    def _ref(self, service: str, instance_id: str, author: Author | None = None) -> Ref:
        with checked(self._limits) as fields:
            fields.service(service, required=True)
            fields.name("instance_id", instance_id, SERVICE_NAME_CHARACTERS)
            if author is not None:
                fields.author(author)
        return instance_ref(service, instance_id)


def _instance_not_found(service: str, instance_id: str) -> NotFound:
    return NotFound(
        f"instance '{instance_id}' of service '{service}' is not registered: it never was, it left, or its lease has run out",
        "INSTANCE_NOT_FOUND",
        {"service_name": service, "instance_id": instance_id},
    )
