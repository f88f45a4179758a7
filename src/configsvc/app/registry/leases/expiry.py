"""The end of leases: removes the instances whose owner is this replica and whose lease has run out.

Before a lease ends, its owner reads the store: another replica may have heard a heartbeat. An instance with a health check
URL is checked once more first, unless its last check failed.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from configsvc.app.registry.leases.leases import SWEEP_SECONDS, Leases
from configsvc.app.registry.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain.instances import Incarnation
from configsvc.domain.records import Action, Mutation, Record, Remove, View
from configsvc.errors import ServiceError
from configsvc.storage.port import Heartbeats

logger = logging.getLogger(__name__)

# If two sweeps are further apart, the process was paused, or the machine slept.
PAUSED_SECONDS = 4.0
# How long an instance stays beyond its lease because there was no time for a health check.
CHECK_WAIT_SECONDS = 600.0


class LeaseExpiry:
    """Ends leases, while this replica may act as an owner.

    `is_out_of_touch`: whether the store or the registry is unreachable. `check_before_expiry(record)`: whether a health
    check must come before this instance's lease ends.
    """

    def __init__(
        self,
        *,
        leases: Leases,
        registrations: Registrations,
        heartbeats: Heartbeats,
        clock: Clock,
        is_out_of_touch: Callable[[], bool],
        check_before_expiry: Callable[[Record], bool],
    ) -> None:
        self._leases = leases
        self._registrations = registrations
        self._heartbeats = heartbeats
        self._clock = clock
        self._is_out_of_touch = is_out_of_touch
        self._check_before_expiry = check_before_expiry
        self._must_grant = False
        self._last_error = ""

    async def run(self) -> None:
        """Sweeps the leases for ever."""
        loop = asyncio.get_running_loop()
        swept_at = loop.time()
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            # Measured on the event loop's clock, which stands still while the process is paused.
            was_paused, swept_at = loop.time() - swept_at > PAUSED_SECONDS, loop.time()
            if was_paused:
                self._leases.clock.discard_elapsed()
                self._must_grant = True
            try:
                await self._sweep()
                self._last_error = ""
            except ServiceError as error:
                self._must_grant = True
                if str(error) != self._last_error:
                    logger.warning("the leases could not be swept: %s", error)
                self._last_error = str(error)

    async def _sweep(self) -> None:
        await self._leases.sync_if_due()
        if self._is_out_of_touch() or not self._registrations.is_loaded:
            self._must_grant = True
            return
        if self._must_grant:
            await self._grant_owned()
            self._must_grant = False
        await self._load_new()
        await self._expire_due()

    async def _grant_owned(self) -> None:
        """Grants a fresh lease to each own instance that had none: heartbeats may have been missed meanwhile."""
        await self._leases.grant(self._registrations.owned())
        self._leases.load_again()

    async def _load_new(self) -> None:
        """Reads what the store knows about instances that are new here, and grants a fresh lease to those without one."""
        new = {lease.incarnation: lease for lease in self._leases.silent() if not lease.is_loaded}
        if not new:
            return
        found = await self._heartbeats.heartbeats(new)
        ungranted = [i for i in new if i not in found or found[i].granted_at < found[i].seen_at]
        if ungranted:
            await self._heartbeats.grant_leases(ungranted, self._leases.clock.seconds)
            found = {**found, **await self._heartbeats.heartbeats(ungranted)}
        for incarnation, lease in new.items():
            # Without a row, the instance has left and come back in a later incarnation. The log is about to say so.
            if heartbeat := found.get(incarnation):
                self._leases.learn(lease, heartbeat)
                lease.is_loaded = True

    async def _expire_due(self) -> None:
        due = {lease.incarnation: lease for lease in self._leases.silent() if self._leases.remaining(lease) <= 0}
        if not due:
            return
        found = await self._heartbeats.heartbeats(due)
        for incarnation, lease in due.items():
            if heartbeat := found.get(incarnation):
                self._leases.learn(lease, heartbeat)
            remaining, record = self._leases.remaining(lease), self._registrations.get(incarnation.ref)
            if remaining > 0:
                continue
            if record is not None and remaining > -CHECK_WAIT_SECONDS and self._check_before_expiry(record):
                continue
            await self._expire(incarnation)

    async def _expire(self, incarnation: Incarnation) -> None:
        ref = incarnation.ref

        def decide(view: View) -> Sequence[Mutation]:
            record = view.get(ref)
            if record is None or not self._registrations.owns(record) or Incarnation.of(record) != incarnation:
                return ()
            lease = self._leases.get(ref)
            if lease is not None and self._leases.remaining(lease) > 0:
                return ()
            return (Remove(ref, Action.EXPIRE),)

        commit = await self._registrations.write_as_service(ref, "lease", "no sign of life within its lease", decide)
        if not commit.changes and not self._registrations.owns(self._registrations.get(ref)):
            self._leases.release(ref)
