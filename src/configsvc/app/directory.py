"""The service registry's use cases: register, keep alive, expire, discover, pick.

Desired registrations are records; every replica holds all of them in memory, kept up to date by the log (wire `apply`
and `reset` to the tail). Leases are live state of the replica that owns the instance: in memory, on the monotonic clock.
A change of status is a write like any other, so that every watcher sees it in its place; a sign of life is none. One
that reaches another replica than the owner is noted in the store, where the owner looks before it expires anything.

An instance's node in the registry is the projection of its record, made by its owner. Whoever the record names is the
owner, whatever a session says: what an owner writes is decided on the record, inside the store's transaction, so that a
replica that was cut off or has slept can't act on what it no longer owns.

Where this replica was out of touch with the store or the registry, or stood still, its clock says nothing about the
instances: all of its leases begin anew.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from configsvc.app.checks import HealthChecks, Thresholds
from configsvc.app.copies import NO_COPIES, Copy, SharedCopies
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
from configsvc.domain.record_json import record_json, record_of
from configsvc.domain.records import Action, Author, Change, Commit, Kind, Mutation, Record, Ref, Remove, View, Write
from configsvc.errors import NotFound, ServiceError, Unavailable
from configsvc.probes.port import Probe
from configsvc.registry.port import (
    Node,
    NodesChanged,
    RegistryEvent,
    ReplicasChanged,
    ServiceRegistryClient,
    SessionChanged,
    SessionState,
)
from configsvc.storage.port import Reader, RecordQuery, Signs, Writer

logger = logging.getLogger(__name__)

# All registrations are read in one view; a fleet has thousands, not millions.
INSTANCES = 1_000_000
# How often leases are looked at: an expired one is noticed at most this late.
SWEEP_SECONDS = 0.5
# Longer between two looks: the process stood still (paused, or the machine slept).
STOOD_STILL_SECONDS = 4.0
# Between two tries to read the registrations of a store that is away.
RELOAD_SECONDS = 1.0
# Changes of owner under way at the same time; they share transactions.
MOVED_TOGETHER = 128
# How long a stopping replica takes to give away what it owns, and waits until its heirs show it.
HAND_ON_SECONDS, HAND_ON_LOOK_SECONDS = 5.0, 0.05
# Where the copy of the services' names lies.
SERVICES_KEY = "services"


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
        signs: Signs,
        is_stale: Callable[[], bool] = lambda: False,
        copies: SharedCopies = NO_COPIES,
    ) -> None:
        self._writer = writer
        self._signs = signs
        self._is_stale = is_stale
        self._copies = copies
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
        self._signed: set[Ref] = set()
        self._foreign: dict[str, tuple[Instance, ...]] = {}
        self._live = frozenset({registry.replica_id})
        self._projections: dict[Ref, asyncio.Task[None]] = {}
        self._connected = True
        # Whether all registrations were read since the start.
        self.is_loaded = False
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
        """Loads all registrations and takes over those that nobody keeps, each with a fresh lease.

        Where the store is away, what other replicas left in the shared cache is shown until it is back.
        """
        self._copies.renew(lambda: [copy for name in self._records for copy in self._copies_of(name, self._applied())])
        events = self._registry.events()
        try:
            await self._load()
        except Unavailable as error:
            logger.warning("the registrations can't be read; those that other replicas knew are shown: %s", error)
            await self._load_copies()
        else:
            await self._meet()
        self._start(self._sweep())
        self._start(self._follow(events))
        await self._checks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._checks.__aexit__(kind, error, trace)
        await self._hand_on()
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
        me, live = self._registry.replica_id, self._live
        fingerprint = f"register {registration!r}" if author.request_id else ""
        seen: list[Record] = []

        def decide(view: View) -> Sequence[Mutation]:
            seen[:] = [record for record in (view.get(ref),) if record is not None]
            return instances.registering(registration, me, live, view)

        commit = await self._write(ref, author, decide, fingerprint)
        record = commit.changes[0].record if commit.changes else seen[0]
        if record is None:
            raise _instance_not_found(ref.service, ref.key)
        self._renew(record)
        if (projection := self._projections.get(ref)) is not None:
            await asyncio.shield(projection)
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
            raise _instance_not_found(service, instance_id) if self.is_loaded else _not_loaded()
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

    @property
    def is_out_of_touch(self) -> bool:
        """Whether what is shown may be old: the store or the registry is away."""
        return not self._connected or self._is_stale()

    def services(self) -> tuple[ServiceSummary, ...]:
        """All services that have instances, in the order of name."""
        if not self.is_loaded and not self._records:
            raise _not_loaded()
        found = {name: self._instances(name) for name in sorted({*self._records, *self._foreign})}
        return tuple(
            ServiceSummary(name, len(listed), sum(instance.status == HEALTHY for instance in listed))
            for name, listed in found.items()
        )

    def service(self, name: str) -> Listing:
        """Every instance, whatever its status. Raises `NotFound`."""
        self._check_name(name)
        found = self._instances(name)
        if not found:
            raise _service_not_found(name)
        return Listing(found, self.is_out_of_touch, self._applied())

    def discover(
        self, name: str, *, metadata: Mapping[str, str] | None = None, zone: str = "", version: str = ""
    ) -> Listing:
        """The healthy instances. Where failing checks left none, those that were healthy last, marked, for a while.

        They are marked, too, while the store or the registry is away.
        """
        self._check_name(name)
        found = self._instances(name)
        serving = tuple(instance for instance in found if instance.status == HEALTHY)
        stale = self.is_out_of_touch
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
        self._apply(changes)
        touched = {change.ref.service: change.revision for change in changes if change.ref.kind is Kind.INSTANCE}
        for service, revision in touched.items():
            for copy in self._copies_of(service, revision):
                self._copies.leave(copy)

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to a revision: everything is read anew."""
        self._start(self._reload())

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.ref.kind is not Kind.INSTANCE:
                continue
            service, key = change.ref.service, change.ref.key
            known = self._records.get(service, {}).get(key)
            if known is not None and known.revision >= change.revision:
                continue
            if change.record is not None:
                self._take(change.record, known)
            else:
                self._drop(change.ref)

    async def _load(self) -> None:
        page = await self._reader.page(RecordQuery(Kind.INSTANCE, "", limit=INSTANCES))
        fresh = {record.ref for record in page.records}
        for known in [record for records in self._records.values() for record in records.values()]:
            if known.ref not in fresh and known.revision <= page.revision:
                self._drop(known.ref)
        for record in page.records:
            before = self._records.get(record.ref.service, {}).get(record.ref.key)
            if before is None or before.revision < record.revision:
                self._take(record, before)
        self.is_loaded = True

    async def _reload(self) -> None:
        while True:
            try:
                await self._load()
                break
            except ServiceError as error:
                logger.warning("the registrations can't be read: %s", error)
                await self._clock.sleep(RELOAD_SECONDS)
        await self._meet()

    async def _load_copies(self) -> None:
        names = (await self._copies.find([SERVICES_KEY])).get(SERVICES_KEY, (0, []))[1]
        for _, records in (await self._copies.find([service_key(name) for name in names])).values():
            for record in map(record_of, records):
                self._take(record, None)

    def _copies_of(self, service: str, revision: int) -> tuple[Copy, Copy]:
        return (
            Copy(service_key(service), revision, lambda: [*map(record_json, self._records.get(service, {}).values())]),
            Copy(SERVICES_KEY, revision, lambda: sorted(self._records)),
        )

    async def _meet(self) -> None:
        """What is to do when the registry can be reached: adopt orphans, look for foreign nodes."""
        try:
            await self._adopt()
            for service in await self._registry.services():
                await self._look(service)
        except ServiceError as error:
            # The registry says when it is back, and then this is done again.
            logger.warning("the registry can't be read: %s", error)

    async def _adopt(self) -> None:
        """Claims the instances whose replica is gone, each by compare-and-set, and grants one fresh lease."""
        self._live = await self._registry.replicas()
        orphans = [
            r for records in self._records.values() for r in records.values() if r.body["owner"] not in self._live
        ]
        # Survivors meet the same orphans; in different orders they share the work.
        random.shuffle(orphans)
        for start in range(0, len(orphans), MOVED_TOGETHER):
            claims = (self._claim(orphan) for orphan in orphans[start : start + MOVED_TOGETHER])
            for failed in await asyncio.gather(*claims, return_exceptions=True):
                if isinstance(failed, BaseException):
                    raise failed

    async def _claim(self, orphan: Record) -> None:
        me, ref = self._registry.replica_id, orphan.ref
        held = (orphan.body["owner"], orphan.body["generation"])
        seen: list[Record] = []

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            if current is None:
                return ()
            if (current.body["owner"], current.body["generation"]) != held:
                seen.append(current)
                return ()
            return (instances.restated(current, Action.UPDATE, owner=me, generation=held[1] + 1),)

        await self._own_write(ref, "registry", f"replica '{held[0]}' is gone", decide)
        for current in seen:
            # Another was quicker, or it was given to this one; the log will say so too.
            known = self._records.get(ref.service, {}).get(ref.key)
            if known is None or known.revision < current.revision:
                self._take(current, known)

    async def _hand_on(self) -> None:
        """Gives what this replica owns to the others that live, and waits a moment until they show it."""
        me = self._registry.replica_id
        try:
            async with asyncio.timeout(HAND_ON_SECONDS):
                others = sorted(await self._registry.replicas() - {me})
                owned = [record.ref for record in self._owned_records()]
                if not others or not owned:
                    return
                for start in range(0, len(owned), MOVED_TOGETHER):
                    heirs = itertools.cycle(random.sample(others, len(others)))
                    refs = owned[start : start + MOVED_TOGETHER]
                    await asyncio.gather(*(self._give(ref, heir) for ref, heir in zip(refs, heirs, strict=False)))
                for service in {ref.service for ref in owned}:
                    while any(node.owner == me for node in await self._registry.nodes(service)):
                        await self._clock.sleep(HAND_ON_LOOK_SECONDS)
        except (ServiceError, TimeoutError) as error:
            logger.warning("not all instances were handed on; the others adopt them: %r", error)

    async def _give(self, ref: Ref, heir: str) -> None:
        me = self._registry.replica_id

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            if current is None or current.body["owner"] != me:
                return ()
            generation = current.body["generation"] + 1
            return (instances.restated(current, Action.UPDATE, owner=heir, generation=generation),)

        await self._own_write(ref, "registry", f"replica '{me}' stops", decide)

    async def _follow(self, events: AsyncIterator[RegistryEvent]) -> None:
        async for event in events:
            try:
                match event:
                    case SessionChanged(state):
                        self._connected = state is SessionState.CONNECTED
                        if self._connected:
                            for record in self._owned_records():
                                self._project(record.ref)
                            await self._meet()
                    case ReplicasChanged() if self._connected:
                        await self._adopt()
                    case NodesChanged(service) if self._connected:
                        await self._look(service)
            except ServiceError as error:
                logger.warning("the registry's news could not be acted on: %s", error)

    async def _look(self, service: str) -> None:
        """Reads a service's nodes: foreign ones are shown as they are, own ones that are missing are made again."""
        nodes = await self._registry.nodes(service)
        foreign = tuple(
            instances.foreign(service, n.instance_id, n.payload, self._clock.now()) for n in nodes if not n.owner
        )
        known = {instance.instance_id: instance for instance in self._foreign.pop(service, ())}
        if foreign:
            # As long as it shows, it was registered when it was first seen.
            self._foreign[service] = tuple(
                replace(i, registered_at=known[i.instance_id].registered_at) if i.instance_id in known else i
                for i in foreign
            )
        shown = {node.instance_id for node in nodes}
        for record in self._owned_records(service):
            if record.ref.key not in shown:
                self._project(record.ref)

    async def _sweep(self) -> None:
        """Expires what gave no sign of life, while this replica may act as its owner."""
        loop = asyncio.get_running_loop()
        looked_at, was_away = loop.time(), False
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            # Measured on the loop, which stands still with the process.
            slept, looked_at = loop.time() - looked_at > STOOD_STILL_SECONDS, loop.time()
            if self.is_out_of_touch or not self.is_loaded:
                was_away = True
                continue
            if was_away or slept:
                was_away = False
                for record in self._owned_records():
                    self._renew(record)
            try:
                await self._note_signs()
                await self._expire_due()
            except ServiceError as error:
                logger.warning("leases could not be looked after: %s", error)

    async def _note_signs(self) -> None:
        signed, self._signed = self._signed, set()
        if signed:
            try:
                await self._signs.note(signed)
            except ServiceError:
                self._signed |= signed
                raise

    async def _expire_due(self) -> None:
        now = self._clock.monotonic()
        due = [ref for ref, lease in self._leases.items() if lease.expires <= now]
        if not due:
            return
        ages = await self._signs.ages(due)
        for ref in due:
            record = self._records.get(ref.service, {}).get(ref.key)
            left = record.body["lease_ttl_seconds"] - ages[ref] if record and ref in ages else 0.0
            if left > 0:
                self._leases[ref] = _Lease(now + left, self._clock.now() - timedelta(seconds=ages[ref]))
            else:
                await self._expire(ref)

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

    async def _restate(
        self, ref: Ref, status: str, actor: str, reason: str, *, of: str = "", as_owner: bool = False
    ) -> None:
        """Writes a status, where the instance is there and has another one (with `of`: that one).

        With `as_owner` only where this replica owns it still.
        """
        me = self._registry.replica_id

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            if current is None or current.body["status"] == status or (of and current.body["status"] != of):
                return ()
            if as_owner and current.body["owner"] != me:
                return ()
            return (instances.restated(current, Action.STATUS, status=status),)

        await self._own_write(ref, actor, reason, decide)

    def _looked_at(self, instance: Instance, passed: bool, changed: bool) -> "asyncio.Future[None] | None":
        record = self._records.get(instance.service_name, {}).get(instance.instance_id)
        if record is None or record.body["owner"] != self._registry.replica_id:
            return None
        if passed:
            self._renew(record)
        status = HEALTHY if passed else UNHEALTHY
        if not changed or record.body["status"] == status:
            return None
        reason = "its checks pass" if passed else "its checks fail"
        return asyncio.ensure_future(self._restate(record.ref, status, "health-check", reason, as_owner=True))

    def _project(self, ref: Ref) -> None:
        """Makes the registry show what this replica's records say of an instance, soon. One at a time for each."""
        if ref not in self._projections:
            task = self._start(self._projected(ref))
            self._projections[ref] = task
            task.add_done_callback(lambda _: self._projections.pop(ref, None))

    async def _projected(self, ref: Ref) -> None:
        while True:
            record = self._owned_record(ref)
            try:
                if record is None:
                    await self._registry.remove(ref.service, ref.key)
                else:
                    await self._registry.put(_node(record))
            except ServiceError as error:
                # The record is the truth; this is made good when the registry is back.
                logger.warning("the registry does not show instance '%s' as it is: %s", ref.key, error)
                return
            if self._owned_record(ref) is record:
                return

    async def _write(
        self, ref: Ref, author: Author, decide: Callable[[View], Sequence[Mutation]], fingerprint: str = ""
    ) -> Commit:
        commit = await self._writer.write(Write(author, (ref,), decide, fingerprint))
        if not commit.replayed:
            # In case the tail lags: what is written here is known here.
            self._apply(commit.changes)
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
            return
        if record.ref not in self._leases:
            # New here, or another replica's until now.
            self._renew(record)
        self._project(record.ref)

    def _drop(self, ref: Ref) -> None:
        service, key = ref.service, ref.key
        self._records.get(service, {}).pop(key, None)
        if not self._records.get(service):
            self._records.pop(service, None)
            self._balancers.pop(service, None)
        self._fell_at.pop(ref, None)
        if self._leases.pop(ref, None) is not None:
            self._project(ref)

    def _renew(self, record: Record) -> None:
        """A sign of life: renews the lease, or notes it for the owner."""
        if record.body["owner"] == self._registry.replica_id:
            expires = self._clock.monotonic() + record.body["lease_ttl_seconds"]
            self._leases[record.ref] = _Lease(expires, self._clock.now())
        else:
            self._signed.add(record.ref)

    def _owned_record(self, ref: Ref) -> Record | None:
        record = self._records.get(ref.service, {}).get(ref.key)
        return record if record is not None and record.body["owner"] == self._registry.replica_id else None

    def _owned_records(self, service: str = "") -> list[Record]:
        services = [self._records.get(service, {})] if service else self._records.values()
        me = self._registry.replica_id
        return [record for records in services for record in records.values() if record.body["owner"] == me]

    def _owned(self) -> Sequence[Instance]:
        return [instance_of(record) for record in self._owned_records()]

    def _instances(self, service: str) -> tuple[Instance, ...]:
        """Those on record, and those that other programs show in the registry, in the order of id."""
        if not self.is_loaded and service not in self._records:
            raise _not_loaded()
        records = self._records.get(service, {})
        own = [self._instance(record) for record in records.values()]
        foreign = [i for i in self._foreign.get(service, ()) if i.instance_id not in records]
        return tuple(sorted((*own, *foreign), key=lambda instance: instance.instance_id))

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

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name="directory")
        self._background.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the directory failed", exc_info=error)


def _with_status(result: CheckResult, status: str) -> CheckResult:
    return CheckResult(
        result.instance_id, result.passed, status, result.latency_ms, result.error, result.checked_at, result.skipped
    )


def service_key(service: str) -> str:
    """Where the copy of a service's registrations lies."""
    return f"service:{service}"


def _node(record: Record) -> Node:
    payload = {name: value for name, value in record.body.items() if name not in ("owner", "generation")}
    payload["registered_at"] = record.created_at.isoformat()
    return Node(record.ref.service, record.ref.key, record.body["owner"], record.body["generation"], payload)


def _not_loaded() -> Unavailable:
    return Unavailable("the registrations have not been read since this replica started", "REGISTRY_NOT_LOADED")


def _service_not_found(name: str) -> NotFound:
    return NotFound(f"service '{name}' has no instances", "SERVICE_NOT_FOUND", {"service_name": name})


def _instance_not_found(service: str, instance_id: str) -> NotFound:
    return NotFound(
        f"instance '{instance_id}' of service '{service}' is not registered, or its lease has run out: register again",
        "INSTANCE_NOT_FOUND",
        {"service_name": service, "instance_id": instance_id},
    )
