"""The adapters that the settings choose, opened and closed together."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from configsvc.bus.kafka.bus import KafkaBus
from configsvc.bus.kafka.publisher import KafkaPublisher
from configsvc.bus.local import LocalBus
from configsvc.bus.port import Bus, Publisher
from configsvc.bus.postgres import PostgresBus
from configsvc.cache.local import LocalCache
from configsvc.cache.port import Cache
from configsvc.cache.redis import RedisCache
from configsvc.clock import Clock, SystemClock
from configsvc.domain.lineage import LogState
from configsvc.errors import ServiceError
from configsvc.probes.address_filter import AddressFilter
from configsvc.probes.grpc import GrpcProbe
from configsvc.probes.network import HttpProbe, SchemeProbe, TcpProbe
from configsvc.probes.port import Probe
from configsvc.probes.targets import TargetLimiter
from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.registry.port import ServiceRegistryClient
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from configsvc.settings import Settings, SettingsError
from configsvc.storage.deferred import DeferredStorage
from configsvc.storage.port import Storage
from configsvc.storage.postgres.connection import CHANNEL
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sqlite.file_check import FileCheck
from configsvc.storage.sqlite.handover import open_after_handover
from configsvc.storage.sqlite.storage import SqliteStorage
from configsvc.tasks import Supervisor

# The cache of sticky flags' assignments if this process is the only one: about 100,000 users.
LOCAL_ASSIGNMENT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Backends:
    """The adapters that the settings choose, open. `kinds` describes for operators which backend each port uses.

    `assignment_cache` is where sticky flags keep their assignments.
    """

    storage: Storage
    cache: Cache | None
    assignment_cache: Cache | None
    bus: Bus
    publisher: Publisher | None
    registry: ServiceRegistryClient
    probe: Probe
    kinds: Mapping[str, str]


@asynccontextmanager
async def open_backends(settings: Settings, clock: Clock, supervisor: Supervisor) -> AsyncIterator[Backends]:
    """Opens every backend. One that can't be reached does not stop the start, except an embedded one."""
    async with AsyncExitStack() as stack:
        storage, storage_kind = await _open_storage(stack, settings, clock, supervisor)
        cache, cache_kind = await _open_cache(stack, settings, clock)
        bus, publisher, bus_kind = await _open_bus(stack, settings, clock, supervisor)
        registry, registry_kind = await _open_registry(stack, settings, clock, supervisor)
        yield Backends(
            storage,
            cache,
            _assignment_cache(settings, cache, clock),
            bus,
            publisher,
            registry,
            _probe(settings, clock),
            {"storage": storage_kind, "cache": cache_kind, "bus": bus_kind, "registry": registry_kind},
        )


async def _open_storage(
    stack: AsyncExitStack, settings: Settings, clock: Clock, supervisor: Supervisor
) -> tuple[Storage, str]:
    if settings.database_url:
        postgres = PostgresStorage(
            settings.database_url, connections=settings.database_connections, supervisor=supervisor
        )
        storage: Storage = await stack.enter_async_context(DeferredStorage(postgres, supervisor, clock))
        return storage, storage.name
    embedded = await _open_embedded_storage(stack, settings, clock, supervisor)
    await stack.enter_async_context(FileCheck(embedded, clock, supervisor=supervisor))
    return embedded, f"{embedded.name} ({settings.sqlite_path})"


async def _open_embedded_storage(
    stack: AsyncExitStack, settings: Settings, clock: Clock, supervisor: Supervisor | None = None
) -> SqliteStorage:
    """Raises `SettingsError` if the file can't be used and waiting would not help."""
    path = settings.sqlite_path
    try:
        return await stack.enter_async_context(
            open_after_handover(SqliteStorage(Path(path), supervisor=supervisor), clock)
        )
    except ServiceError as error:
        if error.reason == "STORAGE_FULL":
            raise
        raise SettingsError(
            [f"SQLITE_PATH: '{path}' can't be used: {error}; it must be a file that this user may write"]
        ) from error


async def _open_cache(stack: AsyncExitStack, settings: Settings, clock: Clock) -> tuple[Cache | None, str]:
    if not settings.redis_host:
        return None, "in memory"
    cache = await stack.enter_async_context(
        RedisCache(
            host=settings.redis_host,
            port=settings.redis_port,
            password=settings.redis_password.get_secret_value(),
            prefix=settings.redis_prefix,
            clock=clock,
        )
    )
    return cache, f"in memory and {cache.name} ({settings.redis_host}:{settings.redis_port})"


def _assignment_cache(settings: Settings, cache: Cache | None, clock: Clock) -> Cache | None:
    """Replicas must share the assignments. A single process may have them to itself."""
    if cache is None and not settings.database_url:
        return LocalCache(LOCAL_ASSIGNMENT_BYTES, clock)
    return cache


async def _open_bus(
    stack: AsyncExitStack, settings: Settings, clock: Clock, supervisor: Supervisor
) -> tuple[Bus, Publisher | None, str]:
    if settings.kafka_bootstrap_servers:
        servers, topic = settings.kafka_bootstrap_servers, settings.kafka_topic_config_updates
        kafka = await stack.enter_async_context(KafkaBus(servers, topic, supervisor, clock))
        publisher = await stack.enter_async_context(
            KafkaPublisher(
                servers,
                topic,
                keys_with_kind=settings.kafka_event_keys == "kind",
                tombstones=settings.kafka_tombstones,
                clock=clock,
            )
        )
        return kafka, publisher, f"{kafka.name} ({servers}, topic {topic})"
    if settings.database_url:
        postgres = await stack.enter_async_context(PostgresBus(settings.database_url, CHANNEL, supervisor, clock))
        return postgres, None, f"{postgres.name} (notifications)"
    local = await stack.enter_async_context(LocalBus())
    return local, None, local.name


async def _open_registry(
    stack: AsyncExitStack, settings: Settings, clock: Clock, supervisor: Supervisor
) -> tuple[ServiceRegistryClient, str]:
    if not settings.zookeeper_hosts:
        local = await stack.enter_async_context(LocalRegistryClient(LocalRegistry(), settings.service_instance_id))
        return local, local.name
    zookeeper = await stack.enter_async_context(
        ZookeeperRegistryClient(
            settings.zookeeper_hosts,
            settings.zookeeper_base_path,
            settings.service_instance_id,
            connection_seconds=settings.zookeeper_connection_timeout,
            session_seconds=settings.zookeeper_session_timeout,
            auth=settings.zookeeper_credential,
            others=settings.zookeeper_acl.removeprefix("none"),
            clock=clock,
            supervisor=supervisor,
        )
    )
    return zookeeper, f"{zookeeper.name} ({settings.zookeeper_hosts}{settings.zookeeper_base_path})"


def _probe(settings: Settings, clock: Clock) -> Probe:
    addresses = AddressFilter(
        settings.denied_networks, allows_private=settings.health_check_private_networks, limiter=TargetLimiter(clock)
    )
    seconds = settings.health_check_timeout_seconds
    http = HttpProbe(addresses, seconds, settings.health_check_ca_file)
    probes: dict[str, Probe] = {
        "http": http,
        "https": http,
        "tcp": TcpProbe(addresses, seconds),
        "grpc": GrpcProbe(addresses, seconds),
    }
    return SchemeProbe(probes, seconds)


@asynccontextmanager
async def _open_storage_alone(settings: Settings) -> AsyncIterator[Storage]:
    """The storage for one command. Raises `Unavailable` if the database can't be reached."""
    async with AsyncExitStack() as stack:
        if settings.database_url:
            yield await stack.enter_async_context(PostgresStorage(settings.database_url))
        else:
            yield await _open_embedded_storage(stack, settings, SystemClock())


async def new_history(settings: Settings, leap: int) -> LogState:
    """Gives the log a new history, which begins `leap` revisions above its head.

    Raises `Unavailable` if the database can't be reached.
    """
    async with _open_storage_alone(settings) as storage:
        return await storage.new_history("an operator marked it (`configsvc new-history`)", leap)


async def migrate(settings: Settings) -> str:
    """Brings the database's schema up to date; returns which database it is.

    Raises `Unavailable` if the database can't be reached.
    """
    async with _open_storage_alone(settings) as storage:
        return storage.name if settings.database_url else f"{storage.name} ({settings.sqlite_path})"
