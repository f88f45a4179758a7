"""The composition root: the settings choose the adapters, and everything is opened here and closed in reverse order."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from configsvc.app.changes import ChangeTrail
from configsvc.app.checks import Thresholds
from configsvc.app.commits import FollowedWriter
from configsvc.app.compaction import Compaction
from configsvc.app.configs import ConfigStore
from configsvc.app.directory import Directory
from configsvc.app.flags import FlagStore
from configsvc.app.health import HealthBoard, Part
from configsvc.app.near import NearRecords
from configsvc.app.tail import LogTail
from configsvc.app.watch import WatchHub
from configsvc.bus.local import LocalBus
from configsvc.clock import SystemClock
from configsvc.domain.instances import Registration
from configsvc.domain.records import Author
from configsvc.errors import ServiceError
from configsvc.probes.network import AddressFilter, HttpProbe, SchemeProbe, TcpProbe
from configsvc.probes.port import Probe
from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.rpc.change_servicer import ChangeServicer
from configsvc.rpc.config_servicer import ConfigServicer
from configsvc.rpc.flag_servicer import FlagServicer
from configsvc.rpc.grpc_probe import GrpcProbe
from configsvc.rpc.health_servicer import HealthServicer
from configsvc.rpc.interceptors import CallInterceptor
from configsvc.rpc.registry_servicer import RegistryServicer
from configsvc.rpc.server import Server
from configsvc.settings import Settings, SettingsError
from configsvc.storage.sqlite import SqliteStorage

logger = structlog.get_logger("configsvc")

OWN_SERVICE = "configsvc"


async def serve(settings: Settings, listen: Sequence[str], ready: Callable[[], None] | None = None) -> None:
    """Runs one server until SIGTERM or SIGINT; then drains it."""
    _log_as_json(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with build(settings, listen):
        if ready is not None:
            ready()
        await stop.wait()
        logger.info("stopping")


@asynccontextmanager
async def build(settings: Settings, listen: Sequence[str]) -> AsyncIterator[Server]:
    """A whole server, ready. Leaving the context drains and closes it."""
    _refuse_what_is_not_built(settings)
    clock, limits = SystemClock(), settings.limits
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(SqliteStorage(Path(settings.sqlite_path)))
        bus = await stack.enter_async_context(LocalBus())
        registry = await stack.enter_async_context(LocalRegistryClient(LocalRegistry(), settings.service_instance_id))
        tail = await stack.enter_async_context(
            LogTail(log=storage, bus=bus, clock=clock, poll_seconds=settings.log_poll_seconds)
        )
        writer = FollowedWriter(storage, tail)
        near = NearRecords(reader=storage, tail=tail, max_entries=settings.near_cache_entries)
        hub = WatchHub(
            tail=tail,
            reader=storage,
            log=storage,
            clock=clock,
            buffer_changes=settings.watch_buffer_messages,
            progress_seconds=settings.watch_progress_seconds,
        )
        configs = ConfigStore(writer=writer, reader=storage, history=storage, near=near, limits=limits)
        flags = FlagStore(writer=writer, reader=storage, history=storage, tail=tail, limits=limits)
        tail.subscribe(flags.apply, flags.reset)
        directory = Directory(
            writer=writer,
            reader=storage,
            registry=registry,
            probe=_probe(settings),
            clock=clock,
            limits=limits,
            applied=lambda: tail.applied,
            thresholds=Thresholds(settings.health_check_healthy_threshold, settings.health_check_unhealthy_threshold),
            check_interval_seconds=settings.service_health_check_interval,
            default_ttl_seconds=settings.lease_default_ttl_seconds,
            stale_seconds=settings.stale_instances_seconds,
            signs=storage,
        )
        tail.subscribe(directory.apply, directory.reset)
        await stack.enter_async_context(directory)
        await stack.enter_async_context(
            Compaction(
                compactor=storage,
                clock=clock,
                keep_changes=settings.compaction_keep_changes,
                interval_seconds=settings.compaction_interval_seconds,
            )
        )
        board = HealthBoard(
            (
                Part("storage", storage.name, storage.ping, required=True),
                Part("bus", bus.name, bus.ping, required=False),
                Part("registry", registry.name, registry.ping, required=False),
            ),
            clock,
        )
        servicers = (
            ConfigServicer(configs, hub, clock),
            FlagServicer(flags, hub, clock),
            RegistryServicer(directory, hub, clock, limits),
            ChangeServicer(ChangeTrail(history=storage, limits=limits)),
            HealthServicer(board, lambda: tail.applied, settings.service_instance_id),
        )
        interceptor = CallInterceptor(tail=tail, default_deadline_seconds=settings.default_deadline_seconds)
        server = await stack.enter_async_context(
            Server(servicers, listen, interceptor, settings.shutdown_grace_seconds)
        )
        if settings.service_registry_enabled:
            await stack.enter_async_context(_registered(directory, settings, listen))
        logger.info(
            "listening",
            addresses=list(listen),
            storage=f"{storage.name} ({settings.sqlite_path})",
            cache="in memory",
            bus=bus.name,
            registry=registry.name,
            instance_id=settings.service_instance_id,
        )
        try:
            yield server
        finally:
            board.stopping = True
            await server.drain()
            hub.shutdown()


@asynccontextmanager
async def _registered(directory: Directory, settings: Settings, listen: Sequence[str]) -> AsyncIterator[None]:
    """Shows this service in its own registry, and keeps its lease while the context is open."""
    clock = SystemClock()
    own = Registration(
        service_name=OWN_SERVICE,
        instance_id=settings.service_instance_id,
        service_url=f"http://{_reachable(settings.host)}:{settings.port or 8082}",
    )

    def author(reason: str) -> Author:
        return Author(OWN_SERVICE, reason, "", clock.now())

    async def keep() -> None:
        while True:
            await clock.sleep(settings.lease_default_ttl_seconds / 3)
            try:
                await directory.register(own, author("still here"))
            except ServiceError as error:
                logger.warning("this replica could not renew its own registration", error=str(error))

    await directory.register(own, author("started"))
    keeper = asyncio.create_task(keep(), name="own-registration")
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        with contextlib.suppress(ServiceError):
            await directory.deregister(OWN_SERVICE, settings.service_instance_id, author("stopped"))


def _probe(settings: Settings) -> SchemeProbe:
    addresses = AddressFilter(settings.denied_networks)
    seconds = settings.health_check_timeout_seconds
    http = HttpProbe(addresses, seconds)
    probes: dict[str, Probe] = {
        "http": http,
        "https": http,
        "tcp": TcpProbe(addresses),
        "grpc": GrpcProbe(addresses, seconds),
    }
    return SchemeProbe(probes, seconds)


def _reachable(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "::") else host


def _refuse_what_is_not_built(settings: Settings) -> None:
    """An address that would silently be ignored is worse than none."""
    given = {
        "DATABASE_URL": settings.database_url,
        "REDIS_HOST": settings.redis_host,
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
    }
    lines = [f"{name}: this release has the embedded backends only; unset it" for name, value in given.items() if value]
    if lines:
        raise SettingsError(lines)


def _log_as_json(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level.upper(), format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
