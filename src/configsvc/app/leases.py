"""Leases: how long an instance that gives no sign of life stays.

A lease is live state of the replica that owns the instance: in memory, on the monotonic clock. A sign of life that reaches
another replica is noted in the store, where the owner looks before it expires anything.

Where this replica was out of touch with the store or the registry, or stood still, its clock says nothing about the
instances: all of its leases begin anew.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from configsvc.app.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain.records import Action, Mutation, Record, Ref, Remove, View
from configsvc.errors import ServiceError
from configsvc.storage.port import Sign, Signs

logger = logging.getLogger(__name__)

# How often leases are looked at: an expired one is noticed at most this late.
SWEEP_SECONDS = 0.5
# Longer between two looks: the process stood still (paused, or the machine slept).
STOOD_STILL_SECONDS = 4.0


@dataclass(slots=True)
class _Lease:
    """Until when, on the monotonic clock, and the last sign of life on the wall."""

    expires: float
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class _Look:
    """Which sign of life was the last one, when it was looked for on the monotonic clock."""

    sign_at: float
    looked_at: float


class Leases:
    """The leases of the instances that this replica owns, and signs of life for those that it does not."""

    def __init__(
        self, *, registrations: Registrations, signs: Signs, clock: Clock, is_out_of_touch: Callable[[], bool]
    ) -> None:
        self._registrations = registrations
        self._signs = signs
        self._clock = clock
        self._is_out_of_touch = is_out_of_touch
        self._leases: dict[Ref, _Lease] = {}
        self._signed: set[Ref] = set()
        self._looks: dict[Ref, _Look] = {}

    def renew(self, record: Record) -> None:
        """A sign of life: renews the lease, or notes it for the owner."""
        if self._registrations.owns(record):
            expires = self._clock.monotonic() + record.body["lease_ttl_seconds"]
            self._leases[record.ref] = _Lease(expires, self._clock.now())
        else:
            self._signed.add(record.ref)

    def seen_at(self, ref: Ref) -> datetime | None:
        """The last sign of life; None where another replica would know."""
        lease = self._leases.get(ref)
        return lease.seen_at if lease else None

    def taken(self, record: Record, before: Record | None) -> None:
        """See `Follower`."""
        if not self._registrations.owns(record):
            self._forget(record.ref)
        elif record.ref not in self._leases:
            # New here, or another replica's until now.
            self.renew(record)

    def dropped(self, record: Record) -> None:
        """See `Follower`."""
        self._forget(record.ref)

    async def sweep(self) -> None:
        """Expires what gave no sign of life, while this replica may act as its owner; for ever."""
        loop = asyncio.get_running_loop()
        looked_at, was_away = loop.time(), False
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            # Measured on the loop, which stands still with the process.
            slept, looked_at = loop.time() - looked_at > STOOD_STILL_SECONDS, loop.time()
            if self._is_out_of_touch() or not self._registrations.is_loaded:
                was_away = True
                continue
            if was_away or slept:
                was_away = False
                for record in self._registrations.owned():
                    self.renew(record)
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
        signs = await self._signs.signs(due)
        for ref in due:
            record = self._registrations.get(ref)
            age = self._age(signs[ref], self._looks.get(ref), now) if ref in signs else math.inf
            if ref in signs:
                self._looks[ref] = _Look(signs[ref].at, now)
            left = record.body["lease_ttl_seconds"] - age if record else 0.0
            if left > 0:
                self._leases[ref] = _Lease(now + left, self._clock.now() - timedelta(seconds=age))
            else:
                await self._expire(ref)

    def _age(self, sign: Sign, before: _Look | None, now: float) -> float:
        """How old a sign is at most; none where it was seen before.

        Where the database's clock has jumped since it was given, it is taken for given just now: a lease may then be as
        long again, but ends neither early nor hours late.
        """
        if before is None:
            return max(0.0, sign.age_seconds)
        if sign.at == before.sign_at:
            return math.inf
        is_possible = 0 <= sign.age_seconds <= now - before.looked_at + SWEEP_SECONDS
        return sign.age_seconds if is_possible else 0.0

    async def _expire(self, ref: Ref) -> None:
        def decide(view: View) -> Sequence[Mutation]:
            lease = self._leases.get(ref)
            renewed = lease is not None and lease.expires > self._clock.monotonic()
            if not self._registrations.owns(view.get(ref)) or renewed:
                return ()
            return (Remove(ref, Action.EXPIRE),)

        commit = await self._registrations.own_write(ref, "lease", "no sign of life within its lease", decide)
        if not commit.changes and not self._registrations.owns(self._registrations.get(ref)):
            self._forget(ref)

    def _forget(self, ref: Ref) -> None:
        self._leases.pop(ref, None)
        self._looks.pop(ref, None)
