"""Builds the parts of the service registry, starts them in order, and stops them in reverse order."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from configsvc.app.changelog.tail import LogTail
from configsvc.app.fallback_cache import FallbackCache
from configsvc.app.registry.directory import Directory
from configsvc.app.registry.discovery import Discovery
from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.health_checks.checks import HealthChecks, Thresholds
from configsvc.app.registry.health_checks.results import CheckResults
from configsvc.app.registry.health_checks.service_check import ServiceCheck
from configsvc.app.registry.leases.expiry import LeaseExpiry
from configsvc.app.registry.leases.keep_alive import KeepAliveStreams
from configsvc.app.registry.leases.leases import Leases
from configsvc.app.registry.log_follower import RegistrationLogFollower
from configsvc.app.registry.ownership.adoption import Adoption
from configsvc.app.registry.ownership.handover import Handover
from configsvc.app.registry.ownership.projection import NodeProjection
from configsvc.app.registry.ownership.reconcile_queue import ReconcileQueue
from configsvc.app.registry.ownership.reconciler import Reconciler
from configsvc.app.registry.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain.addresses import ANYONE, AddressRules
from configsvc.domain.limits import Limits
from configsvc.errors import Unavailable
from configsvc.probes.port import Probe
from configsvc.registry.port import ServiceRegistryClient
from configsvc.storage.port import Heartbeats, Reader, Writer
from configsvc.tasks import BackgroundTasks, Supervisor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What an operator can set."""

    thresholds: Thresholds
    check_interval_seconds: float
    check_timeout_seconds: float
    default_ttl_seconds: int
    stale_seconds: float
    limits: Limits
    addresses: AddressRules = ANYONE


@dataclass(frozen=True, slots=True)
class ServiceRegistry:
    """The running parts that others use."""

    registrations: Registrations
    directory: Directory
    discovery: Discovery
    keep_alive: KeepAliveStreams
    service_check: ServiceCheck
    foreign: ForeignInstances
    reconciler: Reconciler
    handover: Handover


@asynccontextmanager
async def open_registry(
    settings: RegistrySettings,
    *,
    writer: Writer,
    reader: Reader,
    heartbeats: Heartbeats,
    registry: ServiceRegistryClient,
    probe: Probe,
    tail: LogTail,
    clock: Clock,
    fallback_cache: FallbackCache,
    supervisor: Supervisor,
) -> AsyncIterator[ServiceRegistry]:
    """The service registry. When it is open, all registrations are loaded, and this replica's share of orphans adopted.

    If the store is down, the registrations that other replicas put into the fallback cache are shown until it is back.
    """
    background = BackgroundTasks("service registry")
    registrations = Registrations(
        writer=writer,
        reader=reader,
        clock=clock,
        fallback_cache=fallback_cache,
        log=tail,
        replica_id=registry.replica_id,
    )
    leases = Leases(registrations, heartbeats, clock)
    checks = HealthChecks(
        probe=probe,
        clock=clock,
        thresholds=settings.thresholds,
        interval_seconds=settings.check_interval_seconds,
        timeout_seconds=settings.check_timeout_seconds,
        owns=registrations.owns,
        on_result=CheckResults(registrations, leases).apply,
        supervisor=supervisor,
    )
    foreign, queue = ForeignInstances(clock), ReconcileQueue(clock)
    projection = NodeProjection(registrations=registrations, registry=registry, queue=queue, background=background)
    adoption = Adoption(
        registrations=registrations, leases=leases, registry=registry, clock=clock, supervisor=supervisor
    )
    reconciler = Reconciler(
        registry=registry, queue=queue, foreign=foreign, projection=projection, adoption=adoption
    )

    def is_out_of_touch() -> bool:
        return not reconciler.is_complete or tail.stale_since is not None

    expiry = LeaseExpiry(
        leases=leases,
        registrations=registrations,
        heartbeats=heartbeats,
        clock=clock,
        is_out_of_touch=is_out_of_touch,
        check_before_expiry=checks.check_before_expiry,
    )
    directory = Directory(
        registrations=registrations,
        leases=leases,
        adoption=adoption,
        projection=projection,
        limits=settings.limits,
        addresses=settings.addresses,
        default_ttl_seconds=settings.default_ttl_seconds,
        catch_up=tail.catch_up,
    )
    discovery = Discovery(
        registrations=registrations,
        foreign=foreign,
        leases=leases,
        clock=clock,
        limits=settings.limits,
        stale_seconds=settings.stale_seconds,
        is_out_of_touch=is_out_of_touch,
        catch_up=tail.catch_up,
    )
    keep_alive = KeepAliveStreams(registrations, directory, background)
    handover = Handover(registrations=registrations, leases=leases, registry=registry, clock=clock)
    follower = RegistrationLogFollower(
        registrations=registrations, projection=projection, reconciler=reconciler, supervisor=supervisor
    )
    for observer in (discovery, keep_alive, leases, checks, projection):
        registrations.subscribe(observer)
    async with AsyncExitStack() as stack:
        stack.callback(tail.subscribe(follower.apply, follower.reset))
        stack.push_async_callback(background.end)
        stack.push_async_callback(follower.close)
        stack.push_async_callback(adoption.close)
        await _load(registrations)
        await reconciler.start()
        stack.push_async_callback(supervisor.keep("lease sweep", expiry.run).end)
        stack.push_async_callback(supervisor.keep("registry follower", reconciler.run).end)
        # While it hands over, this replica still sweeps its leases and follows the registry.
        stack.push_async_callback(handover.hand_over)
        await stack.enter_async_context(checks)
        yield ServiceRegistry(
            registrations,
            directory,
            discovery,
            keep_alive,
            ServiceCheck(discovery, checks),
            foreign,
            reconciler,
            handover,
        )


async def _load(registrations: Registrations) -> None:
    try:
        await registrations.load()
    except Unavailable as error:
        logger.warning("the registrations can't be read; those in the fallback cache are shown: %s", error)
        await registrations.load_fallback()
