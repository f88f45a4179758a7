"""Leases: how long an instance that gives no sign of life stays.

The bound is the lease's length from the last sign of life that any replica has heard, and once the same again: a change
of owner, a restart or a backend that was away grants a fresh lease, but only one until the next sign of life. Both are
counted in seconds in which somebody listened (`listening`), so a living instance is not ended for a silence that was the
service's own.

Heartbeats are live state of the replica that hears them. It notes them in the store: those of another replica's
instance at once, since that one looks there before it ends a lease; those of its own at a bounded rate, so that whoever
adopts them knows.

An instance with a health check URL is looked at once more before its lease ends, unless its last check failed.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from configsvc.app.registry.lease_clock import LeaseClock, LeaseInstant
from configsvc.app.registry.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain.instances import Incarnation, incarnation_of
from configsvc.domain.records import Action, Mutation, Record, Ref, Remove, View
from configsvc.errors import ServiceError
from configsvc.storage.port import Heartbeat, Heartbeats

logger = logging.getLogger(__name__)

# How often leases are looked at: an expired one is noticed at most this late.
SWEEP_SECONDS = 0.5
# Longer between two looks: the process stood still (paused, or the machine slept).
STOOD_STILL_SECONDS = 4.0
# How often the store is told that somebody listens.
LISTEN_SECONDS = 1.0
# Of a lease: the least time between two notes of one instance's signs by its owner.
NOTE_PART = 0.2
# Of a lease: who was heard by this process less than this ago is not silent. Heartbeats come every third of a lease.
SILENT_PART = 0.5
# Heartbeats that another replica has just heard are in the store by then: two of its sweeps.
SETTLE_SECONDS = 2 * SWEEP_SECONDS
# How long an instance stays beyond its lease because there was no time to check it.
OWED_SECONDS = 600.0
# How long signs of instances that left are kept: longer than the longest lease; and how often they are looked for.
FORGET_SECONDS, FORGET_EVERY_SECONDS = 172_800.0, 3_600.0


@dataclass(slots=True)
class _Lease:
    """What is known of the life of an instance that this replica owns.

    `seen`: its last sign of life, `seen_at` on the wall, for people. `granted`: when it last got a lease without one.
    `noted`: the last sign that the store was told. `taken`: when this replica became its owner. Until `is_read`, what
    the store knows is not known here.
    """

    incarnation: Incarnation
    taken: LeaseInstant
    seen: LeaseInstant | None = None
    seen_at: datetime | None = None
    granted: LeaseInstant | None = None
    noted: LeaseInstant | None = None
    is_read: bool = False


class Leases:
    """The leases of the instances that this replica owns, and signs of life for those that it does not."""

    def __init__(
        self,
        *,
        registrations: Registrations,
        heartbeats: Heartbeats,
        clock: Clock,
        is_out_of_touch: Callable[[], bool],
        owes_check: Callable[[Record], bool] = lambda _: False,
    ) -> None:
        self._registrations = registrations
        self._heartbeats = heartbeats
        self._clock = clock
        self._is_out_of_touch = is_out_of_touch
        self._owes_check = owes_check
        self._listening = LeaseClock(heartbeats, clock)
        self._leases: dict[Ref, _Lease] = {}
        # Heartbeats that the store has to be told for others.
        self._signed: dict[Incarnation, LeaseInstant] = {}
        self._told_at = self._forgot_at = clock.monotonic()
        self._problem = ""

    def renew(self, record: Record) -> None:
        """A sign of life: renews the lease, or notes it for the owner."""
        incarnation, now = incarnation_of(record), self._listening.now()
        if not self._registrations.owns(record):
            self._signed[incarnation] = now
            return
        lease = self._leases.get(record.ref)
        if lease is None or lease.incarnation != incarnation:
            lease = self._leases[record.ref] = _Lease(incarnation, now)
        lease.seen, lease.seen_at, lease.granted, lease.is_read = now, self._clock.now(), None, True

    def seen_at(self, ref: Ref) -> datetime | None:
        """The last sign of life; None where another replica would know."""
        lease = self._leases.get(ref)
        return lease.seen_at if lease else None

    def taken(self, record: Record, before: Record | None) -> None:
        """See `Follower`."""
        incarnation, lease = incarnation_of(record), self._leases.get(record.ref)
        if not self._registrations.owns(record):
            self._forget(record.ref)
        elif lease is None or lease.incarnation != incarnation:
            self._leases[record.ref] = _Lease(incarnation, self._listening.now())

    def dropped(self, record: Record) -> None:
        """See `Follower`."""
        self._leases.pop(record.ref, None)

    async def grant(self, records: Sequence[Record]) -> None:
        """These are about to change their owner: each gets a fresh lease, if it had none since its last sign of life.

        Before the change, so that it is granted once however often owners change. Raises `Unavailable`.
        """
        if not records:
            return
        # Of orphans there is nothing to tell, and the other survivors don't wait.
        changing = {record.ref for record in records}
        own = {ref: lease for ref, lease in self._unnoted(0.0).items() if ref in changing}
        if own or not self._listening.has_begun:
            await self._tell(own)
        await self._heartbeats.grant_leases(
            [incarnation_of(record) for record in records], self._listening.heard_seconds
        )

    async def sweep(self) -> None:
        """Ends leases without signs of life, while this replica may act as their owner; for ever."""
        loop = asyncio.get_running_loop()
        looked_at, was_away = loop.time(), False
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            # Measured on the loop, which stands still with the process.
            slept, looked_at = loop.time() - looked_at > STOOD_STILL_SECONDS, loop.time()
            if slept:
                self._listening.pause()
            was_away = was_away or slept
            try:
                if self._is_time_to_tell():
                    await self._tell(self._unnoted(NOTE_PART))
                if self._is_out_of_touch() or not self._registrations.is_loaded:
                    was_away = True
                    continue
                if was_away:
                    await self._grant_owned()
                    was_away = False
                await self._read_new()
                await self._expire_due()
                self._problem = ""
            except ServiceError as error:
                was_away = True
                if str(error) != self._problem:
                    logger.warning("leases could not be looked after: %s", error)
                self._problem = str(error)

    def _is_time_to_tell(self) -> bool:
        """Whether there are signs to note, or silence to be counted: of an own instance, or of other replicas'."""
        if not self._listening.has_begun or self._signed or self._unnoted(NOTE_PART):
            return True
        if self._clock.monotonic() - self._told_at < LISTEN_SECONDS:
            return False
        return len(self._leases) < self._registrations.count or any(
            lease.seen is None
            or lease.seen.is_of_the_store
            or self._listening.age(lease.seen) > SILENT_PART * self._ttl(ref)
            for ref, lease in self._leases.items()
        )

    def _unnoted(self, part: float) -> dict[Ref, _Lease]:
        """Own leases with a sign that the store has not been told, and was not told of for this part of the lease."""
        return {
            ref: lease
            for ref, lease in self._leases.items()
            if lease.seen is not lease.noted
            and (lease.noted is None or self._listening.age(lease.noted) >= part * self._ttl(ref))
        }

    async def _tell(self, own: dict[Ref, _Lease]) -> None:
        """Tells the store that somebody listens, and what was heard."""
        await self._listening.tell()
        self._told_at = self._clock.monotonic()
        signed, self._signed = self._signed, {}
        noted = [(lease, lease.seen) for lease in own.values() if lease.seen is not None]
        moments = {**signed, **{lease.incarnation: seen for lease, seen in noted}}
        if moments:
            heard = self._listening.heard_seconds
            try:
                await self._heartbeats.record_heartbeats(
                    {i: heard - self._listening.age(moment) for i, moment in moments.items()}
                )
            except ServiceError:
                self._signed = {**signed, **self._signed}
                raise
            for lease, seen in noted:
                lease.noted = seen
        if self._told_at - self._forgot_at > FORGET_EVERY_SECONDS:
            self._forgot_at = self._told_at
            await self._heartbeats.forget_heartbeats(self._listening.heard_seconds - FORGET_SECONDS)

    async def _grant_owned(self) -> None:
        """This replica's clock may have said nothing about its instances: a fresh lease for those that had none."""
        await self.grant(self._registrations.owned())
        for lease in self._leases.values():
            lease.is_read = False

    async def _read_new(self) -> None:
        """What the store knows of instances whose leases are new here; one that nobody granted a fresh lease gets one."""
        new = {lease.incarnation: lease for lease in self._leases.values() if not lease.is_read}
        if not new:
            return
        found = await self._heartbeats.heartbeats(new)
        ungranted = [i for i in new if i not in found or found[i].granted_at < found[i].seen_at]
        if ungranted:
            await self._heartbeats.grant_leases(ungranted, self._listening.heard_seconds)
            found = {**found, **await self._heartbeats.heartbeats(ungranted)}
        for incarnation, lease in new.items():
            # Without a row it has left, and come back in a later incarnation: the log is about to say so.
            if sign := found.get(incarnation):
                self._learn(lease, sign)
                lease.is_read = True

    def _learn(self, lease: _Lease, heartbeat: Heartbeat) -> None:
        """Takes in what the store knows, as far as it is newer."""
        if lease.seen is None or self._listening.heard_seconds - heartbeat.seen_at < self._listening.age(lease.seen):
            lease.seen = lease.noted = LeaseInstant(heartbeat.seen_at)
            lease.seen_at = self._clock.now() - timedelta(seconds=self._listening.age(lease.seen))
        if heartbeat.granted_at >= heartbeat.seen_at:
            lease.granted = LeaseInstant(heartbeat.granted_at)

    async def _expire_due(self) -> None:
        due = {lease.incarnation: lease for lease in self._leases.values() if self._left(lease) <= 0}
        if not due:
            return
        found = await self._heartbeats.heartbeats(due)
        for incarnation, lease in due.items():
            if sign := found.get(incarnation):
                self._learn(lease, sign)
            left, record = self._left(lease), self._registrations.get(incarnation.ref)
            if left > 0 or (record is not None and left > -OWED_SECONDS and self._owes_check(record)):
                continue
            await self._expire(incarnation)

    def _left(self, lease: _Lease) -> float:
        """The seconds that are left of a lease; more than none if it is not known yet."""
        if not lease.is_read or self._listening.age(lease.taken) < SETTLE_SECONDS:
            return SETTLE_SECONDS
        known = [self._listening.age(moment) for moment in (lease.seen, lease.granted) if moment is not None]
        return self._ttl(lease.incarnation.ref) - min(known)

    def _ttl(self, ref: Ref) -> float:
        record = self._registrations.get(ref)
        return float(record.body["lease_ttl_seconds"]) if record else 0.0

    async def _expire(self, incarnation: Incarnation) -> None:
        ref = incarnation.ref

        def decide(view: View) -> Sequence[Mutation]:
            record = view.get(ref)
            if record is None or not self._registrations.owns(record) or incarnation_of(record) != incarnation:
                return ()
            lease = self._leases.get(ref)
            return () if lease is not None and self._left(lease) > 0 else (Remove(ref, Action.EXPIRE),)

        commit = await self._registrations.own_write(ref, "lease", "no sign of life within its lease", decide)
        if not commit.changes and not self._registrations.owns(self._registrations.get(ref)):
            self._forget(ref)

    def _forget(self, ref: Ref) -> None:
        """It is another replica's now, which may not have heard its last sign of life."""
        lease = self._leases.pop(ref, None)
        if lease is not None and lease.seen is not None and lease.seen is not lease.noted:
            self._signed[lease.incarnation] = lease.seen
