"""The composition root: builds all parts of a server, opens them in order, and closes them in reverse order."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from configsvc.app.batches import Batches
from configsvc.app.changelog.audit import AuditLog
from configsvc.app.changelog.compaction import Compaction
from configsvc.app.changelog.follower import LogFollower
from configsvc.app.changelog.lineage.history_origin import HistoryOrigins
from configsvc.app.changelog.lineage.shared_checkpoint import SharedCheckpoint
from configsvc.app.changelog.outbox.health import OutboxHealth
from configsvc.app.changelog.outbox.relay import OutboxRelay
from configsvc.app.changelog.tail import LogTail
from configsvc.app.changelog.writer import AppliedWriter
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.configs.store import ConfigStore
from configsvc.app.fallback_cache import FallbackCache
from configsvc.app.flags.evaluator import Evaluator
from configsvc.app.flags.sets import FlagSets
from configsvc.app.flags.sticky import StickyAssignments
from configsvc.app.flags.store import FlagStore
from configsvc.app.health import Component, ReplicaHealth
from configsvc.app.health_components import health_components
from configsvc.app.registry.assembly import RegistryOptions, build_registry
from configsvc.app.registry.health_checks.checks import Thresholds
from configsvc.app.registry.self_registration import self_registration
from configsvc.app.registry.service_watch import ServiceWatches
from configsvc.app.watch.hub import WatchHub
from configsvc.backends import Backends, open_backends
from configsvc.clock import Clock, SystemClock
from configsvc.domain.addresses import AddressRules
from configsvc.rpc.engine import EngineOptions, open_engine
from configsvc.rpc.interceptors import AccessLog, CallInterceptor
from configsvc.rpc.interceptors.access_log import log_unknown_method
from configsvc.rpc.quick_reads import Positions, QuickConfigs, QuickFlags, QuickReads, QuickRegistry
from configsvc.rpc.server import Server
from configsvc.rpc.servicers.change_operations import OperationPlanner
from configsvc.rpc.servicers.changes import ChangeServicer
from configsvc.rpc.servicers.configs import ConfigServicer
from configsvc.rpc.servicers.flags import FlagServicer
from configsvc.rpc.servicers.health import HealthServicer
from configsvc.rpc.servicers.registry import RegistryServicer
from configsvc.rpc.services import CHANGES, CONFIGS, FLAGS, HEALTH, REGISTRY
from configsvc.settings import Settings
from configsvc.storage.port import Storage
from configsvc.tasks import Supervisor

logger = logging.getLogger(__name__)

SYSTEM_CLOCK = SystemClock()


@asynccontextmanager
async def build(settings: Settings, listen: Sequence[str], clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Server]:
    """A server that listens at the addresses in `listen`. Leaving the context drains and closes it."""
    limits = settings.limits
    supervisor = Supervisor(clock)
    async with AsyncExitStack() as stack:
        backends = await stack.enter_async_context(open_backends(settings, clock, supervisor))
        storage = backends.storage
        tail = await stack.enter_async_context(
            LogTail(
                log=storage,
                bus=backends.bus,
                clock=clock,
                poll_seconds=settings.log_poll_seconds,
                shared_checkpoint=SharedCheckpoint(backends.cache, clock),
                supervisor=supervisor,
            )
        )
        fallback_cache = await stack.enter_async_context(
            FallbackCache(
                backends.cache,
                clock,
                timedelta(seconds=settings.cache_ttl_seconds),
                log=tail,
                supervisor=supervisor,
            )
        )
        writer = AppliedWriter(storage, tail)
        near_cache = NearCache(
            reader=storage,
            tail=tail,
            max_entries=settings.near_cache_entries,
            max_bytes=settings.near_cache_bytes,
            fallback_cache=fallback_cache,
        )
        hub = _watch_hub(settings, storage, tail, clock, supervisor)
        configs = ConfigStore(writer=writer, reader=storage, history=storage, near_cache=near_cache, limits=limits)
        # These copies outlive the log's history: a user keeps the variant after a restore, as long as the flag is the same.
        assignments = await stack.enter_async_context(
            FallbackCache(
                backends.assignment_cache,
                clock,
                timedelta(seconds=settings.assignment_ttl_seconds),
                name="assignments",
                supervisor=supervisor,
            )
        )
        flags = FlagStore(
            writer=writer, reader=storage, history=storage, limits=limits, keeps_assignments=assignments.is_enabled
        )
        flag_sets = FlagSets(
            reader=storage, tail=tail, fallback_cache=fallback_cache, max_bytes=settings.flag_sets_bytes
        )
        evaluator = Evaluator(sets=flag_sets, assignments=StickyAssignments(assignments), tail=tail, limits=limits)
        service_registry = build_registry(
            _registry_options(settings),
            writer=writer,
            reader=storage,
            heartbeats=storage,
            registry=backends.registry,
            probe=backends.probe,
            log=tail,
            clock=clock,
            fallback_cache=fallback_cache,
            supervisor=supervisor,
        )
        service_watches = ServiceWatches(
            hub,
            service_registry.foreign,
            tail,
            registered_ids=service_registry.registrations.ids_in_log,
            is_complete=lambda: service_registry.reconciler.is_complete,
        )
        # A follower must subscribe before it loads the state, so that it misses no change in between.
        followers: tuple[LogFollower, ...] = (near_cache, hub, flag_sets, service_registry.log_follower)
        for follower in followers:
            stack.callback(tail.subscribe(follower))
        await stack.enter_async_context(service_registry.running(supervisor))
        await stack.enter_async_context(_compaction(settings, backends, clock, supervisor))
        if backends.publisher is not None:
            await stack.enter_async_context(
                OutboxRelay(
                    outbox=storage, log=storage, publisher=backends.publisher, clock=clock, supervisor=supervisor
                )
            )
        health = ReplicaHealth(
            _health_components(backends, tail, clock, supervisor),
            clock,
            is_complete=lambda: tail.is_synced and service_registry.registrations.is_loaded,
        )
        origins = HistoryOrigins(storage, tail, clock)
        services = (
            CONFIGS.served_by(ConfigServicer(configs, hub, clock), tail.wait_synced),
            FLAGS.served_by(FlagServicer(flags, evaluator, hub, clock), tail.wait_synced),
            REGISTRY.served_by(
                RegistryServicer(service_registry, service_watches, clock, limits),
                service_registry.registrations.wait_loaded,
            ),
            CHANGES.served_by(
                ChangeServicer(
                    AuditLog(history=storage, limits=limits),
                    Batches(writer=writer, limits=limits),
                    OperationPlanner(flags),
                    clock,
                ),
                tail.wait_synced,
            ),
            HEALTH.served_by(HealthServicer(health, tail, origins.get, settings.service_instance_id)),
        )
        access_log = AccessLog(writes_all=settings.access_log == "all", slow_seconds=settings.access_log_slow_seconds)
        quick_reads = QuickReads(Positions(tail), access_log.sample_of)
        quick_reads.add(CONFIGS.descriptor, QuickConfigs(configs, limits.batch_size).methods)
        quick_reads.add(FLAGS.descriptor, QuickFlags(evaluator, limits.batch_size).methods)
        quick_reads.add(REGISTRY.descriptor, QuickRegistry(service_registry.discovery, limits).methods)
        interceptor = CallInterceptor(
            tail=tail,
            default_deadline_seconds=settings.default_deadline_seconds,
            access_log=access_log,
            quick_reads=quick_reads.by_path,
        )
        engine = open_engine(
            settings.grpc_engine,
            listen,
            EngineOptions(settings.max_request_bytes, on_unknown_method=log_unknown_method),
        )
        server = await stack.enter_async_context(
            Server(services, listen, engine, interceptor, supervisor, grace_seconds=settings.shutdown_grace_seconds)
        )
        if settings.service_registry_enabled:
            await stack.enter_async_context(
                self_registration(
                    service_registry.directory,
                    clock,
                    supervisor,
                    instance_id=settings.service_instance_id,
                    service_url=settings.service_url,
                    lease_ttl_seconds=settings.lease_default_ttl_seconds,
                )
            )
        fields = {
            "addresses": list(listen),
            "grpc_engine": engine.kind,
            **backends.kinds,
            "instance_id": settings.service_instance_id,
        }
        logger.info("listening", extra=fields)
        try:
            yield server
        finally:
            health.stopping = True
            await server.drain()
            hub.shutdown()
            service_registry.keep_alive.shutdown()


def _watch_hub(settings: Settings, storage: Storage, tail: LogTail, clock: Clock, supervisor: Supervisor) -> WatchHub:
    return WatchHub(
        tail=tail,
        reader=storage,
        log=storage,
        clock=clock,
        buffer_changes=settings.watch_buffer_messages,
        buffer_bytes=settings.watch_buffer_bytes,
        progress_seconds=settings.watch_progress_seconds,
        supervisor=supervisor,
    )


def _registry_options(settings: Settings) -> RegistryOptions:
    return RegistryOptions(
        limits=settings.limits,
        thresholds=Thresholds(settings.health_check_healthy_threshold, settings.health_check_unhealthy_threshold),
        check_interval_seconds=settings.service_health_check_interval,
        check_timeout_seconds=settings.health_check_timeout_seconds,
        default_ttl_seconds=settings.lease_default_ttl_seconds,
        stale_seconds=settings.stale_instances_seconds,
        addresses=AddressRules(settings.denied_networks, settings.health_check_private_networks),
    )


def _compaction(settings: Settings, backends: Backends, clock: Clock, supervisor: Supervisor) -> Compaction:
    return Compaction(
        compactor=backends.storage,
        clock=clock,
        keep_changes=settings.compaction_keep_changes,
        interval_seconds=settings.compaction_interval_seconds,
        keep_age=timedelta(days=settings.compaction_keep_days) if settings.compaction_keep_days else None,
        keep_unpublished=backends.publisher is not None,
        supervisor=supervisor,
    )


def _health_components(
    backends: Backends, tail: LogTail, clock: Clock, supervisor: Supervisor
) -> tuple[Component, ...]:
    publishes = backends.publisher is not None
    return health_components(
        storage=backends.storage,
        cache=backends.cache,
        bus=backends.bus,
        outbox=OutboxHealth(backends.bus.ping, backends.storage, clock) if publishes else None,
        registry=backends.registry,
        log=tail,
        supervisor=supervisor,
    )
