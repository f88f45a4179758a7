"""Leases: renewed by heartbeats, and measured on the lease clock.

An instance stays for the length of its lease after the last heartbeat that any replica heard, plus at most one fresh
lease. A change of owner, a restart, or an outage of a backend grants a fresh lease, but only one until the next heartbeat.

A heartbeat is a Heartbeat call, a registration, a KeepAlive message, or a passed health check. The replica that hears it
holds it in memory. It records it in the store only for others. If another replica owns the instance, that is at the next
sweep, because the owner reads the store before it ends a lease. If it owns the instance itself, the record is for the
replica that may adopt it, which grants a fresh lease unless there was no heartbeat since the last grant. So the first
heartbeat after a grant is recorded at the next sweep, and after that one heartbeat in many leases. All heartbeats of a
sweep are recorded in one statement.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from configsvc.app.registry.leases.lease import Lease
from configsvc.app.registry.leases.lease_clock import LeaseClock, LeaseInstant
from configsvc.app.registry.leases.silence import SilentLeases
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
# The shortest time between two records of one instance's heartbeats by its owner, in leases, unless a grant came between.
# If another replica granted a lease without this one's knowledge, and died before it became the owner, then this is how
# long an instance may lack the right to its next grant.
RECORD_LEASES = 10
# The longest such time.
RECORD_SECONDS = 3_600.0
# After this, a heartbeat that another replica has just heard is in the store: two of its sweeps.
SETTLE_SECONDS = 2 * SWEEP_SECONDS
# Heartbeats of instances that left are deleted after this, which is longer than the longest lease; and how often.
FORGET_SECONDS, FORGET_EVERY_SECONDS = 172_800.0, 3_600.0


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
        self._silent = SilentLeases(self.clock)
        # Heartbeats that the store does not know yet: of own instances, and of those that other replicas own.
        self._unrecorded: dict[Ref, Lease] = {}
        self._unrecorded_others: dict[Incarnation, LeaseInstant] = {}
        self._synced_at = self._forgot_at = clock.monotonic()

    def silent(self) -> list[Lease]:
        """The leases whose last heartbeat is not recent, or not known. All leases that have run out are among them."""
        return self._silent.now()

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
            lease = self._begin(record)
        if self._must_record(lease):
            self._unrecorded[record.ref] = lease
        lease.last_heartbeat, lease.last_heartbeat_at = now, self._clock.now()
        lease.granted, lease.is_loaded = None, True

    def last_heartbeat_at(self, ref: Ref) -> datetime | None:
        """The wall time of the last heartbeat; None if only another replica would know."""
        lease = self._leases.get(ref)
        return lease.last_heartbeat_at if lease else None

    def on_put(self, record: Record, before: Record | None) -> None:
        """Begins a lease for each instance that this replica becomes the owner of."""
        lease = self._leases.get(record.ref)
        if not self._registrations.owns(record):
            self.release(record.ref)
        elif lease is None or lease.incarnation != Incarnation.of(record):
            self._begin(record)
        elif lease.ttl_seconds != (ttl_seconds := _ttl_seconds(record)):
            lease.ttl_seconds = ttl_seconds
            self._silent.add(lease)

    def on_remove(self, record: Record) -> None:
        """The lease ends with the registration."""
        self._end(record.ref)

    def release(self, ref: Ref) -> None:
        """Another replica owns the instance now. It may not have heard the last heartbeat, so that is recorded."""
        lease = self._end(ref)
        if lease is not None and lease.last_heartbeat is not None and lease.last_heartbeat is not lease.recorded:
            self._unrecorded_others[lease.incarnation] = lease.last_heartbeat

    def load_again(self) -> None:
        """What the store knows about each lease must be read again before the lease may end."""
        for lease in self._leases.values():
            lease.is_loaded = False
            self._silent.add(lease)

    def remaining(self, lease: Lease) -> float:
        """The seconds until a lease ends; not positive if it has ended. More than zero if that is not known yet."""
        if not lease.is_loaded or self.clock.age(lease.owned_since) < SETTLE_SECONDS:
            return SETTLE_SECONDS
        ages = [self.clock.age(instant) for instant in (lease.last_heartbeat, lease.granted) if instant is not None]
        return lease.ttl_seconds - min(ages)

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
        known = (self._leases.get(record.ref) for record in records)
        own = [lease for lease in known if lease is not None and lease.last_heartbeat is not lease.recorded]
        if own or not self.clock.is_synced:
            await self._sync(own)
        await self._heartbeats.grant_leases([Incarnation.of(record) for record in records], self.clock.seconds)

    async def sync_if_due(self) -> None:
        """Records heartbeats in the store, and reports to it that this replica hears heartbeats. Raises `Unavailable`."""
        if self._is_sync_due():
            await self._sync(tuple(self._unrecorded.values()))

    def _begin(self, record: Record) -> Lease:
        lease = self._leases[record.ref] = Lease(Incarnation.of(record), _ttl_seconds(record), self.clock.now())
        self._unrecorded.pop(record.ref, None)
        self._silent.add(lease)
        return lease

    def _end(self, ref: Ref) -> Lease | None:
        self._unrecorded.pop(ref, None)
        self._silent.remove(ref)
        return self._leases.pop(ref, None)

    def _must_record(self, lease: Lease) -> bool:
        """Whether the store must learn of a heartbeat that is heard now."""
        if lease.granted is not None or not lease.is_loaded:
            # The store has a grant that is newer than the last heartbeat that it knows, or may have one.
            return True
        return self.clock.age(lease.recorded or lease.owned_since) >= min(
            RECORD_LEASES * lease.ttl_seconds, RECORD_SECONDS
        )

    def _is_sync_due(self) -> bool:
        """Whether there are heartbeats to record, or silence to measure: of an own instance, or of another replica's."""
        if not self.clock.is_synced or self._unrecorded_others or self._unrecorded:
            return True
        if self._clock.monotonic() - self._synced_at < SYNC_SECONDS:
            return False
        return len(self._leases) < self._registrations.count or bool(self.silent())

    async def _sync(self, own: Iterable[Lease]) -> None:
        await self.clock.sync()
        self._synced_at = self._clock.monotonic()
        others, self._unrecorded_others = self._unrecorded_others, {}
        recording = [(lease, lease.last_heartbeat) for lease in own if lease.last_heartbeat is not None]
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
                if self._unrecorded.get(lease.incarnation.ref) is lease:
                    del self._unrecorded[lease.incarnation.ref]
        if self._synced_at - self._forgot_at > FORGET_EVERY_SECONDS:
            self._forgot_at = self._synced_at
            await self._heartbeats.forget_heartbeats(self.clock.seconds - FORGET_SECONDS)


def _ttl_seconds(record: Record) -> float:
    return float(record.body["lease_ttl_seconds"])
