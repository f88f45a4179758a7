"""The parts of the service registry as one thing that starts and stops."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from configsvc.app.registry.directory import Directory
from configsvc.app.registry.discovery import Discovery
from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.health_checks.checks import HealthChecks
from configsvc.app.registry.health_checks.service_check import ServiceCheck
from configsvc.app.registry.leases.expiry import LeaseExpiry
from configsvc.app.registry.leases.keep_alive import KeepAliveStreams
from configsvc.app.registry.log_follower import RegistrationLogFollower
from configsvc.app.registry.ownership.adoption import Adoption
from configsvc.app.registry.ownership.handover import Handover
from configsvc.app.registry.ownership.reconciler import Reconciler
from configsvc.app.registry.registrations import Registrations
from configsvc.errors import Unavailable
from configsvc.tasks import BackgroundTasks, Supervisor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceRegistry:
    """All parts. `assembly.build_registry` builds them; subscribe `log_follower` to the log before `running`."""

    registrations: Registrations
    log_follower: RegistrationLogFollower
    directory: Directory
    discovery: Discovery
    keep_alive: KeepAliveStreams
    expiry: LeaseExpiry
    checks: HealthChecks
    service_check: ServiceCheck
    foreign: ForeignInstances
    reconciler: Reconciler
    adoption: Adoption
    handover: Handover
    background: BackgroundTasks

    @asynccontextmanager
    async def running(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """When this is entered, all registrations are loaded, and this replica's share of orphans is adopted.

        If the store is down, the registrations that other replicas put into the fallback cache are shown until it is back.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.background.stop)
            stack.push_async_callback(self.log_follower.close)
            stack.push_async_callback(self.adoption.close)
            await self._load()
            await self.reconciler.start()
            for name, work in (("lease sweep", self.expiry.run), ("registry follower", self.reconciler.run)):
                stack.push_async_callback(supervisor.supervise(name, work).stop)
            # During the handover, this replica still sweeps its leases and follows the registry.
            stack.push_async_callback(self.handover.hand_over)
            await stack.enter_async_context(self.checks)
            yield

    async def _load(self) -> None:
        try:
            await self.registrations.load()
        except Unavailable as error:
            logger.warning("the registrations can't be read; those in the fallback cache are shown: %s", error)
            await self.registrations.load_fallback()
            self.log_follower.reload()
