"""Builds the service registry from its parts."""

from dataclasses import dataclass

from configsvc.app.changelog.position import AppliedLog
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
from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.clock import Clock
from configsvc.domain.addresses import DEFAULT_RULES, AddressRules
from configsvc.domain.limits import Limits
from configsvc.probes.port import Probe
from configsvc.registry.port import ServiceRegistryClient
from configsvc.storage.port import Heartbeats, Reader, Writer
from configsvc.tasks import BackgroundTasks, Supervisor


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """What an operator can set."""

    limits: Limits
    thresholds: Thresholds
    check_interval_seconds: float
    check_timeout_seconds: float
    default_ttl_seconds: int
    stale_seconds: float
    addresses: AddressRules = DEFAULT_RULES


def build_registry(
    options: RegistryOptions,
    *,
    writer: Writer,
    reader: Reader,
    heartbeats: Heartbeats,
    registry: ServiceRegistryClient,
    probe: Probe,
    log: AppliedLog,
    clock: Clock,
    fallback_cache: FallbackCache,
    supervisor: Supervisor,
) -> ServiceRegistry:
    """The parts, each with what it needs of the others. Nothing is started."""
    background = BackgroundTasks("service registry")
    registrations = Registrations(
        writer=writer,
        reader=reader,
        clock=clock,
        fallback_cache=fallback_cache,
        log=log,
        replica_id=registry.replica_id,
    )
    leases = Leases(registrations, heartbeats, clock)
    checks = HealthChecks(
        probe=probe,
        clock=clock,
        thresholds=options.thresholds,
        interval_seconds=options.check_interval_seconds,
        timeout_seconds=options.check_timeout_seconds,
        owns=registrations.owns,
        on_result=CheckResults(registrations, leases).apply,
        supervisor=supervisor,
    )
    foreign, queue = ForeignInstances(clock), ReconcileQueue(clock)
    projection = NodeProjection(registrations=registrations, registry=registry, queue=queue, background=background)
    adoption = Adoption(
        registrations=registrations, leases=leases, registry=registry, clock=clock, supervisor=supervisor
    )
    reconciler = Reconciler(registry=registry, queue=queue, foreign=foreign, projection=projection, adoption=adoption)

    def is_out_of_touch() -> bool:
        """Whether what is known may be out of date: the store or the registry is unreachable."""
        return not reconciler.is_complete or log.stale_since is not None

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
        limits=options.limits,
        addresses=options.addresses,
        default_ttl_seconds=options.default_ttl_seconds,
        log=log,
    )
    discovery = Discovery(
        registrations=registrations,
        foreign=foreign,
        leases=leases,
        clock=clock,
        limits=options.limits,
        stale_seconds=options.stale_seconds,
        is_out_of_touch=is_out_of_touch,
        log=log,
    )
    keep_alive = KeepAliveStreams(registrations, directory, background)
    for observer in (discovery, keep_alive, leases, checks, projection):
        registrations.subscribe(observer)
    return ServiceRegistry(
        registrations=registrations,
        log_follower=RegistrationLogFollower(
            registrations=registrations, projection=projection, reconciler=reconciler, supervisor=supervisor
        ),
        directory=directory,
        discovery=discovery,
        keep_alive=keep_alive,
        expiry=expiry,
        checks=checks,
        service_check=ServiceCheck(discovery, checks),
        foreign=foreign,
        reconciler=reconciler,
        adoption=adoption,
        handover=Handover(registrations=registrations, leases=leases, registry=registry, clock=clock),
        background=background,
    )
