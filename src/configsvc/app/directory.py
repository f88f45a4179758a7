"""The service registry's use cases: register, keep alive, expire, discover, pick.

Desired registrations are records; this replica holds all of them in memory, kept up to date by the log (wire `apply` and
`reset` to the tail). Leases are live state of the replica that owns the instance: in memory, on the monotonic clock. A
change of status is a write like any other, so that every watcher sees it in its place; a sign of life is none.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from configsvc.app.checks import HealthChecks, Thresholds
from configsvc.clock import Clock
from configsvc.domain import instances
from configsvc.domain.balancing import Balancer, checked_strategy, in_zone_first
from configsvc.domain.fields import SERVICE_NAME_CHARACTERS, checked
from configsvc.domain.instances import (
    HEALTHY,
    SUSPECT,
    UNHEALTHY,
    CheckResult,
    Instance,
    Listing,
    Picked,
    Registration,
    ServiceSummary,
    instance_of,
    instance_ref,
)
from configsvc.domain.limits import Limits
from configsvc.domain.records import Action, Author, Change, Commit, Kind, Mutation, Record, Ref, Remove, View, Write
from configsvc.errors import NotFound, ServiceError
from configsvc.probes.port import Probe
from configsvc.registry.port import (
    Node,
    RegistryEvent,
    ReplicasChanged,
    ServiceRegistryClient,
    SessionChanged,
    SessionState,
)
from configsvc.storage.port import Reader, RecordQuery, Writer

logger = logging.getLogger(__name__)

# All registrations are read in one view; a fleet has thousands, not millions.
INSTANCES = 1_000_000
# How often leases are looked at: an expired one is noticed at most this late.
SWEEP_SECONDS = 0.5


@dataclass(slots=True)
class _Lease:
    """Until when, on the monotonic clock, and the last sign of life on the wall."""

    expires: float
    seen_at: datetime


class KeepAlive:
    """An instance's open stream."""

    def __init__(self, directory: "Directory", service: str, instance_id: str) -> None:
        self._directory = directory
        self._service = service
        self._instance_id = instance_id

    async def renew(self) -> int:
        """Renews the lease; returns its length in seconds. Raises `NotFound` where it has expired."""
        instance, _ = await self._directory.heartbeat(self._service, self._instance_id)
        return instance.lease_ttl_seconds


class Directory:
    """All instances of all services, as this replica knows them."""

    def __init__(
        self,
        *,
        writer: Writer,
        reader: Reader,
        registry: ServiceRegistryClient,
        probe: Probe,
        clock: Clock,
        limits: Limits,
        applied: Callable[[], int],
        thresholds: Thresholds,
        check_interval_seconds: float,
        default_ttl_seconds: int,
        stale_seconds: float,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._registry = registry
        self._clock = clock
        self._limits = limits
        self._applied = applied
        self._default_ttl_seconds = default_ttl_seconds
        self._stale_seconds = stale_seconds
        self._records: dict[str, dict[str, Record]] = {}
        self._leases: dict[Ref, _Lease] = {}
        self._fell_at: dict[Ref, float] = {}
        self._balancers: dict[str, Balancer] = {}
        self._connected = True
        self._background: set[asyncio.Task[None]] = set()
        self._checks = HealthChecks(
            probe=probe,
            clock=clock,
            thresholds=thresholds,
            interval_seconds=check_interval_seconds,
            instances=self._owned,
            told=self._looked_at,
        )

    async def __aenter__(self) -> Self:
        """Loads all registrations and takes over those that nobody keeps, each with a fresh lease."""
        await self._load()
        await self._adopt()
        self._start(self._sweep())
        self._start(self._follow(self._registry.events()))
        await self._checks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._checks.__aexit__(kind, error, trace)
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def register(self, registration: Registration, author: Author) -> tuple[Instance, int]:
        """Registers an instance or replaces its registration without a gap; it is discoverable at once."""
        with checked(self._limits) as fields:
            instances.check(fields, registration)
            fields.author(author)
        registration = instances.complete(registration, self._default_ttl_seconds)
        ref = instance_ref(registration.service_name, registration.instance_id)
        owner = self._registry.replica_id
        fingerprint = f"register {registration!r}" if author.request_id else ""
        commit = await self._write(
            ref, author, lambda view: instances.registering(registration, owner, view), fingerprint
        )
        record = commit.changes[0].record if commit.changes else self._records[ref.service][ref.key]
        if record is None:
            raise _instance_not_found(ref.service, ref.key)
        self._renew(record)
        await self._show(record)
        return self._instance(record), commit.revision

    async def deregister(self, service: str, instance_id: str, author: Author) -> int:
        """Removes an instance at once; returns the revision. Raises `NotFound`."""
        ref = self._ref(service, instance_id, author)

        def decide(view: View) -> Sequence[Mutation]:
            if view.get(ref) is None:
                raise _instance_not_found(service, instance_id)
            return (Remove(ref),)

        commit = await self._write(ref, author, decide, f"deregister {ref!r}" if author.request_id else "")
        return commit.revision

    async def heartbeat(self, service: str, instance_id: str) -> tuple[Instance, int]:
        """Renews a lease; a suspect instance is healthy again. Raises `NotFound` where it has expired."""
        ref = self._ref(service, instance_id)
        record = self._records.get(service, {}).get(instance_id)
        if record is None:
            raise _instance_not_found(service, instance_id)
        self._renew(record)
        if record.body["status"] == SUSPECT:
            await self._restate(ref, HEALTHY, "heartbeat", "it gives signs of life again")
            record = self._records.get(service, {}).get(instance_id, record)
        return self._instance(record), self._applied()

    @asynccontextmanager
    async def keep_alive(self, service: str, instance_id: str) -> AsyncIterator[KeepAlive]:
        """An instance's stream. Where it ends and the instance is still there, it becomes suspect."""
        stream = KeepAlive(self, service, instance_id)
        await stream.renew()
        try:
            yield stream
        finally:
            self._start(
                self._restate(instance_ref(service, instance_id), SUSPECT, "keep-alive", "its stream ended", of=HEALTHY)
            )

    @property
    def revision(self) -> int:
        """The revision at which the directory is read."""
        return self._applied()

    def services(self) -> tuple[ServiceSummary, ...]:
        """All services that have instances, in the order of name."""
        return tuple(
            ServiceSummary(name, len(records), sum(r.body["status"] == HEALTHY for r in records.values()))
            for name, records in sorted(self._records.items())
        )

    def service(self, name: str) -> Listing:
        """Every instance, whatever its status. Raises `NotFound`."""
        self._check_name(name)
        found = self._instances(name)
        if not found:
            raise _service_not_found(name)
        return Listing(found, not self._connected, self._applied())

    def discover(
        self, name: str, *, metadata: Mapping[str, str] | None = None, zone: str = "", version: str = ""
    ) -> Listing:
        """The healthy instances. Where failing checks left none, those that were healthy last, marked, for a while."""
        self._check_name(name)
        found = self._instances(name)
        serving = tuple(instance for instance in found if instance.status == HEALTHY)
        stale = False
        if not serving:
            limit = self._clock.monotonic() - self._stale_seconds
            serving = tuple(i for i in found if self._fell_at.get(i.ref, limit) > limit)
            stale = bool(serving)
        wanted = (metadata or {}).items()
        matching = tuple(
            instance
            for instance in serving
            if wanted <= instance.metadata.items() and zone in ("", instance.zone) and version in ("", instance.version)
        )
        return Listing(matching, stale, self._applied())

    def pick(self, name: str, *, strategy: str = "", hash_key: str = "", zone: str = "") -> Picked:
        """One instance by a strategy, the caller's zone first. Raises `NotFound` where there is none to give."""
        strategy = checked_strategy(strategy, hash_key)
        listing = self.discover(name)
        if not listing.instances:
            raise NotFound(f"service '{name}' has no healthy instance", "NO_HEALTHY_INSTANCE", {"service_name": name})
        balancer = self._balancers.setdefault(name, Balancer())
        chosen = balancer.pick(in_zone_first(listing.instances, zone), strategy, hash_key)
        return Picked(chosen.service_url, chosen.instance_id, strategy, listing.stale)

    async def check(self, name: str) -> tuple[CheckResult, ...]:
        """Looks at every instance now. Raises `NotFound` where the service has none."""
        listing = self.service(name)
        results = await asyncio.gather(*(self._checks.look(instance) for instance in listing.instances))
        now = {i.instance_id: i.status for i in self._instances(name)}
        return tuple(_with_status(result, now.get(result.instance_id, result.status)) for result in results)

    def apply(self, changes: Sequence[Change]) -> None:
        """Takes in what the log says, in order."""
        for change in changes:
            if change.ref.kind is not Kind.INSTANCE:
                continue
            service, key = change.ref.service, change.ref.key
            known = self._records.get(service, {}).get(key)
            if known is not None and known.revision >= change.revision:
                continue
            if change.record is not None:
                self._take(change.record, known)
                continue
            self._records.get(service, {}).pop(key, None)
            if not self._records.get(service):
                self._records.pop(service, None)
                self._balancers.pop(service, None)
            self._fell_at.pop(change.ref, None)
            if self._leases.pop(change.ref, None) is not None:
                self._start(self._hide(change.ref))

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to a revision: everything is read anew."""
        self._start(self._load())

    async def _load(self) -> None:
        page = await self._reader.page(RecordQuery(Kind.INSTANCE, "", limit=INSTANCES))
        fresh = {record.ref for record in page.records}
        for records in self._records.values():
            for record in tuple(records.values()):
                if record.ref not in fresh and record.revision <= page.revision:
                    del records[record.ref.key]
                    self._leases.pop(record.ref, None)
        for record in page.records:
            known = self._records.get(record.ref.service, {}).get(record.ref.key)
            if known is None or known.revision < record.revision:
                self._take(record, known)
        self._records = {service: records for service, records in self._records.items() if records}

    async def _adopt(self) -> None:
        """Claims the instances whose replica is gone, each by compare-and-set, and grants one fresh lease."""
        live = await self._registry.replicas()
        orphans = [r for records in self._records.values() for r in records.values() if r.body["owner"] not in live]
        for orphan in orphans:
            await self._claim(orphan)

    async def _claim(self, orphan: Record) -> None:
        me, ref = self._registry.replica_id, orphan.ref
        held = (orphan.body["owner"], orphan.body["generation"])

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            if current is None or (current.body["owner"], current.body["generation"]) != held:
                return ()
            return (instances.restated(current, Action.UPDATE, owner=me, generation=held[1] + 1),)

        commit = await self._own_write(ref, "registry", f"replica '{held[0]}' is gone", decide)
        for change in commit.changes:
            if change.record is not None:
                self._renew(change.record)
                await self._show(change.record)

    async def _follow(self, events: AsyncIterator[RegistryEvent]) -> None:
        async for event in events:
            try:
                match event:
                    case SessionChanged(state):
                        self._connected = state is SessionState.CONNECTED
                        if self._connected:
                            for instance in self._owned():
                                await self._show(self._records[instance.service_name][instance.instance_id])
                            await self._adopt()
                    case ReplicasChanged() if self._connected:
                        await self._adopt()
            except ServiceError as error:
                logger.warning("the registry's news could not be acted on: %s", error)

    async def _sweep(self) -> None:
        """Expires what gave no sign of life, while this replica may act as its owner."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            now = self._clock.monotonic()
            due = [ref for ref, lease in self._leases.items() if lease.expires <= now] if self._connected else []
            for ref in due:
                try:
                    await self._expire(ref)
                except ServiceError as error:
                    logger.warning("instance '%s' could not be expired: %s", ref.key, error)

    async def _expire(self, ref: Ref) -> None:
        me = self._registry.replica_id

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            lease = self._leases.get(ref)
            renewed = lease is not None and lease.expires > self._clock.monotonic()
            if current is None or current.body["owner"] != me or renewed:
                return ()
            return (Remove(ref, Action.EXPIRE),)

        commit = await self._own_write(ref, "lease", "no sign of life within its lease", decide)
        record = self._records.get(ref.service, {}).get(ref.key)
        if not commit.changes and (record is None or record.body["owner"] != me):
            self._leases.pop(ref, None)

    async def _restate(self, ref: Ref, status: str, actor: str, reason: str, *, of: str = "") -> None:
        """Writes a status, where the instance is there and has another one (with `of`: that one)."""

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            if current is None or current.body["status"] == status or (of and current.body["status"] != of):
                return ()
            return (instances.restated(current, Action.STATUS, status=status),)

        await self._own_write(ref, actor, reason, decide)

    def _looked_at(self, instance: Instance, passed: bool, changed: bool) -> "asyncio.Future[None] | None":
        record = self._records.get(instance.service_name, {}).get(instance.instance_id)
        if record is None:
            return None
        if passed:
            self._renew(record)
        status = HEALTHY if passed else UNHEALTHY
        if not changed or record.body["status"] == status:
            return None
        reason = "its checks pass" if passed else "its checks fail"
        return asyncio.ensure_future(self._restate(record.ref, status, "health-check", reason))

    async def _show(self, record: Record) -> None:
        """Projects a registration into the registry. The record is the truth; a failure is made good on reconnecting."""
        payload = {name: value for name, value in record.body.items() if name not in ("owner", "generation")}
        node = Node(record.ref.service, record.ref.key, record.body["owner"], record.body["generation"], payload)
        try:
            await self._registry.put(node)
        except ServiceError as error:
            logger.warning("instance '%s' does not show in the registry: %s", record.ref.key, error)

    async def _hide(self, ref: Ref) -> None:
        try:
            await self._registry.remove(ref.service, ref.key)
        except ServiceError as error:
            logger.warning("instance '%s' still shows in the registry: %s", ref.key, error)

    async def _write(
        self, ref: Ref, author: Author, decide: Callable[[View], Sequence[Mutation]], fingerprint: str = ""
    ) -> Commit:
        commit = await self._writer.write(Write(author, (ref,), decide, fingerprint))
        if not commit.replayed:
            # In case the tail lags: what is written here is known here.
            self.apply(commit.changes)
        return commit

    async def _own_write(
        self, ref: Ref, actor: str, reason: str, decide: Callable[[View], Sequence[Mutation]]
    ) -> Commit:
        return await self._write(ref, Author(actor, reason, "", self._clock.now()), decide)

    def _take(self, record: Record, known: Record | None) -> None:
        self._records.setdefault(record.ref.service, {})[record.ref.key] = record
        before, after = known.body["status"] if known else HEALTHY, record.body["status"]
        if after == HEALTHY:
            self._fell_at.pop(record.ref, None)
        elif before == HEALTHY and after == UNHEALTHY:
            self._fell_at[record.ref] = self._clock.monotonic()
        if record.body["owner"] != self._registry.replica_id:
            self._leases.pop(record.ref, None)

    def _renew(self, record: Record) -> None:
        if record.body["owner"] == self._registry.replica_id:
            expires = self._clock.monotonic() + record.body["lease_ttl_seconds"]
            self._leases[record.ref] = _Lease(expires, self._clock.now())

    def _owned(self) -> Sequence[Instance]:
        me = self._registry.replica_id
        return [
            instance_of(record)
            for records in self._records.values()
            for record in records.values()
            if record.body["owner"] == me
        ]

    def _instances(self, service: str) -> tuple[Instance, ...]:
        return tuple(self._instance(record) for _, record in sorted(self._records.get(service, {}).items()))

    def _instance(self, record: Record) -> Instance:
        lease = self._leases.get(record.ref)
        return instance_of(record, lease.seen_at if lease else None)

    def _ref(self, service: str, instance_id: str, author: Author | None = None) -> Ref:
        with checked(self._limits) as fields:
            fields.service(service, required=True)
            fields.name("instance_id", instance_id, SERVICE_NAME_CHARACTERS)
            if author is not None:
                fields.author(author)
        return instance_ref(service, instance_id)

    def _check_name(self, name: str) -> None:
        with checked(self._limits) as fields:
            fields.service(name, required=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="directory")
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the directory failed", exc_info=error)


def _with_status(result: CheckResult, status: str) -> CheckResult:
    return CheckResult(
        result.instance_id, result.passed, status, result.latency_ms, result.error, result.checked_at, result.skipped
    )


def _service_not_found(name: str) -> NotFound:
    return NotFound(f"service '{name}' has no instances", "SERVICE_NOT_FOUND", {"service_name": name})


def _instance_not_found(service: str, instance_id: str) -> NotFound:
    return NotFound(
        f"instance '{instance_id}' of service '{service}' is not registered, or its lease has run out: register again",
        "INSTANCE_NOT_FOUND",
        {"service_name": service, "instance_id": instance_id},
    )
