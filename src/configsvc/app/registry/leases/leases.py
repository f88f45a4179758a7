"""Leases: renewed by heartbeats, and measured on the lease clock.

An instance stays for the length of its lease after the last heartbeat that any replica heard, plus at most one fresh
lease. A change of owner, a restart, or an outage of a backend grants a fresh lease, but only one until the next heartbeat.

A heartbeat is a Heartbeat call, a registration, a KeepAlive message, or a passed health check. The replica that hears it
holds it in memory, and records it in the store: at once if another replica owns the instance, because the owner reads the
store before it ends a lease; at a bounded rate if it owns the instance itself, for the replica that may adopt it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from configsvc.app.registry.leases.lease_clock import LeaseClock, LeaseInstant
from configsvc.app.registry.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain.instances import Incarnation
from configsvc.domain.records import Record, Ref
from configsvc.errors import ServiceError
from configsvc.storage.port import Heartbeat, Heartbeats

# How often the leases are checked. A lease that has run out is noticed at most this late.
SWEEP_SECONDS = 0.5
# How often the store is told that this replica hears heartbeats, if there is silence to measure.
SYNC_SECONDS = 1.0
# The shortest time between two records of one instance's heartbeats by its owner, as a part of the lease.
RECORD_PART = 0.2
# An instance whose last heartbeat is less than this part of its lease ago is not silent. Heartbeats come three times a lease.
SILENT_PART = 0.5
# After this, a heartbeat that another replica has just heard is in the store: two of its sweeps.
SETTLE_SECONDS = 2 * SWEEP_SECONDS
# Heartbeats of instances that left are deleted after this, which is longer than the longest lease; and how often.
FORGET_SECONDS, FORGET_EVERY_SECONDS = 172_800.0, 3_600.0


@dataclass(slots=True)
class Lease:
    """The lease of an instance that this replica owns."""

    incarnation: Incarnation
    # When this replica became the owner.
    owned_since: LeaseInstant
    # The last heartbeat, and its wall time, which is shown to people.
    last_heartbeat: LeaseInstant | None = None
    last_heartbeat_at: datetime | None = None
    # When the instance last got a fresh lease without a heartbeat.
    granted: LeaseInstant | None = None
    # The last heartbeat that the store knows.
    recorded: LeaseInstant | None = None
    # Whether the store's knowledge of this instance was read.
    is_loaded: bool = False


class Leases:
    """The leases of the instances that this replica owns, and the heartbeats that it heard for other replicas.

    Observes the registrations.
    """

    def __init__(self, registrations: Registrations, heartbeats: Heartbeats, clock: Clock) -> None:
        self._registrations = registrations
        self._heartbeats = heartbeats
        self._clock = clock
        self.clock = LeaseClock(heartbeats, clock)
        self._leases: dict[Ref, Lease] = {}
        # Heartbeats of instances that other replicas own; the store does not know them yet.
        self._unrecorded_others: dict[Incarnation, LeaseInstant] = {}
        self._synced_at = self._forgot_at = clock.monotonic()

    def __iter__(self) -> Iterator[Lease]:
        return iter(tuple(self._leases.values()))

    def get(self, ref: Ref) -> Lease | None:
        """The lease of an instance; None if another replica owns it."""
        return self._leases.get(ref)

    def renew(self, record: Record) -> None:
        """A heartbeat: renews the lease, or notes the heartbeat for the owner."""
        incarnation, now = Incarnation.of(record), self.clock.now()
        if not self._registrations.owns(record):
            self._unrecorded_others[incarnation] = now
            return
        lease = self._leases.get(record.ref)
        if lease is None or lease.incarnation != incarnation:
            lease = self._leases[record.ref] = Lease(incarnation, now)
        lease.last_heartbeat, lease.last_heartbeat_at = now, self._clock.now()
        lease.granted, lease.is_loaded = None, True

    def last_heartbeat_at(self, ref: Ref) -> datetime | None:
        """The wall time of the last heartbeat; None if only another replica would know."""
        lease = self._leases.get(ref)
        return lease.last_heartbeat_at if lease else None

    def on_put(self, record: Record, before: Record | None) -> None:
        """Begins a lease for each instance that this replica becomes the owner of."""
        incarnation, lease = Incarnation.of(record), self._leases.get(record.ref)
        if not self._registrations.owns(record):
            self.release(record.ref)
        elif lease is None or lease.incarnation != incarnation:
            self._leases[record.ref] = Lease(incarnation, self.clock.now())

    def on_remove(self, record: Record) -> None:
        """The lease ends with the registration."""
        self._leases.pop(record.ref, None)

    def release(self, ref: Ref) -> None:
        """Another replica owns the instance now. It may not have heard the last heartbeat, so that is recorded."""
        lease = self._leases.pop(ref, None)
        if lease is not None and lease.last_heartbeat is not None and lease.last_heartbeat is not lease.recorded:
            self._unrecorded_others[lease.incarnation] = lease.last_heartbeat

    def ttl(self, ref: Ref) -> float:
        """The length of an instance's lease, in seconds."""
        record = self._registrations.get(ref)
        return float(record.body["lease_ttl_seconds"]) if record else 0.0

    def remaining(self, lease: Lease) -> float:
        """The seconds until a lease ends; not positive if it has ended. More than zero if that is not known yet."""
        if not lease.is_loaded or self.clock.age(lease.owned_since) < SETTLE_SECONDS:
            return SETTLE_SECONDS
        ages = [self.clock.age(instant) for instant in (lease.last_heartbeat, lease.granted) if instant is not None]
        return self.ttl(lease.incarnation.ref) - min(ages)

    def learn(self, lease: Lease, heartbeat: Heartbeat) -> None:
        """Takes over what the store knows, if it is newer."""
        known_age = None if lease.last_heartbeat is None else self.clock.age(lease.last_heartbeat)
        if known_age is None or self.clock.seconds - heartbeat.seen_at < known_age:
            lease.last_heartbeat = lease.recorded = LeaseInstant(heartbeat.seen_at)
            lease.last_heartbeat_at = self._clock.now() - timedelta(seconds=self.clock.age(lease.last_heartbeat))
        if heartbeat.granted_at >= heartbeat.seen_at:
            lease.granted = LeaseInstant(heartbeat.granted_at)

    async def grant(self, records: Sequence[Record]) -> None:
        """The owner of these instances is about to change: grants each a fresh lease, if it had none since its last heartbeat.

        Granted before the change, so that several changes of owner grant one lease. Raises `Unavailable`.
        """
        if not records:
            return
        # A dead owner's heartbeats are not known here. Then there is nothing to record, and the claim must not wait.
        changing = {record.ref for record in records}
        own = {ref: lease for ref, lease in self._unrecorded(0.0).items() if ref in changing}
        if own or not self.clock.is_synced:
            await self._sync(own)
        await self._heartbeats.grant_leases([Incarnation.of(record) for record in records], self.clock.seconds)

    async def sync_if_due(self) -> None:
        """Records heartbeats in the store, and reports to it that this replica hears heartbeats. Raises `Unavailable`."""
        if self._is_sync_due():
            await self._sync(self._unrecorded(RECORD_PART))

    def _is_sync_due(self) -> bool:
        """Whether there are heartbeats to record, or silence to measure: of an own instance, or of another replica's."""
        if not self.clock.is_synced or self._unrecorded_others or self._unrecorded(RECORD_PART):
            return True
        if self._clock.monotonic() - self._synced_at < SYNC_SECONDS:
            return False
        return len(self._leases) < self._registrations.count or any(
            lease.last_heartbeat is None
            or lease.last_heartbeat.is_from_store
            or self.clock.age(lease.last_heartbeat) > SILENT_PART * self.ttl(ref)
            for ref, lease in self._leases.items()
        )

    def _unrecorded(self, part: float) -> dict[Ref, Lease]:
        """Own leases whose last heartbeat the store does not know, and whose last record is this part of the lease ago."""
        return {
            ref: lease
            for ref, lease in self._leases.items()
            if lease.last_heartbeat is not lease.recorded
            and (lease.recorded is None or self.clock.age(lease.recorded) >= part * self.ttl(ref))
        }

    async def _sync(self, own: dict[Ref, Lease]) -> None:
        await self.clock.sync()
        self._synced_at = self._clock.monotonic()
        others, self._unrecorded_others = self._unrecorded_others, {}
        recording = [(lease, lease.last_heartbeat) for lease in own.values() if lease.last_heartbeat is not None]
        instants = {**others, **{lease.incarnation: heartbeat for lease, heartbeat in recording}}
        if instants:
            now = self.clock.seconds
            try:
                await self._heartbeats.record_heartbeats(
                    {i: now - self.clock.age(instant) for i, instant in instants.items()}
                )
            except ServiceError:
                self._unrecorded_others = {**others, **self._unrecorded_others}
                raise
            for lease, heartbeat in recording:
                lease.recorded = heartbeat
        if self._synced_at - self._forgot_at > FORGET_EVERY_SECONDS:
            self._forgot_at = self._synced_at
            await self._heartbeats.forget_heartbeats(self.clock.seconds - FORGET_SECONDS)
