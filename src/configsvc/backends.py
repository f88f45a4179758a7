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
from configsvc.cache.port import Cache
from configsvc.cache.redis import RedisCache
from configsvc.clock import Clock, SystemClock
from configsvc.domain.lineage import LogState
from configsvc.errors import ServiceError
from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.registry.port import ServiceRegistryClient
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from configsvc.settings import Settings, SettingsError
from configsvc.storage.deferred import DeferredStorage
from configsvc.storage.port import Storage
from configsvc.storage.postgres.storage import CHANNEL, PostgresStorage
from configsvc.storage.sqlite.file_check import FileCheck
from configsvc.storage.sqlite.storage import SqliteStorage
from configsvc.tasks import Supervisor

# How long the file of a process that was killed, or stops, may stay in its hands after the next has started.
HANDOVER_SECONDS = 5.0
HANDOVER_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Backends:
    """The adapters that the settings chose, open. `kinds` says for people which backend each port uses."""

    storage: Storage
    cache: Cache | None
    bus: Bus
    publisher: Publisher | None
    registry: ServiceRegistryClient
    kinds: Mapping[str, str]


@asynccontextmanager
async def open_backends(settings: Settings, clock: Clock, supervisor: Supervisor) -> AsyncIterator[Backends]:
    """Opens every backend. One that is away does not stop the start, except an embedded one."""
    kinds: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        storage: Storage
        if settings.database_url:
            inner = PostgresStorage(
                settings.database_url, connections=settings.database_connections, supervisor=supervisor
            )
            storage = await stack.enter_async_context(DeferredStorage(inner, supervisor))
            kinds["storage"] = storage.name
        else:
            embedded = await stack.enter_async_context(embedded_storage(settings, clock, supervisor))
            await stack.enter_async_context(FileCheck(embedded, clock, supervisor=supervisor))
            storage = embedded
            kinds["storage"] = f"{storage.name} ({settings.sqlite_path})"

        cache: Cache | None = None
        kinds["cache"] = "in memory"
        if settings.redis_host:
            cache = await stack.enter_async_context(
                RedisCache(
                    host=settings.redis_host,
                    port=settings.redis_port,
                    password=settings.redis_password.get_secret_value(),
                    prefix=settings.redis_prefix,
                    clock=clock,
                )
            )
            kinds["cache"] = f"in memory and {cache.name} ({settings.redis_host}:{settings.redis_port})"

        bus: Bus
        publisher: Publisher | None = None
        if settings.kafka_bootstrap_servers:
            servers, topic = settings.kafka_bootstrap_servers, settings.kafka_topic_config_updates
            bus = await stack.enter_async_context(KafkaBus(servers, topic, supervisor))
            publisher = await stack.enter_async_context(
                KafkaPublisher(
                    servers,
                    topic,
                    keys_with_kind=settings.kafka_event_keys == "kind",
                    tombstones=settings.kafka_tombstones,
                )
            )
            kinds["bus"] = f"{bus.name} ({servers}, topic {topic})"
        elif settings.database_url:
            bus = await stack.enter_async_context(PostgresBus(settings.database_url, CHANNEL, supervisor, clock))
            kinds["bus"] = f"{bus.name} (notifications)"
        else:
            bus = await stack.enter_async_context(LocalBus())
            kinds["bus"] = bus.name

        registry: ServiceRegistryClient
        if settings.zookeeper_hosts:
            registry = await stack.enter_async_context(
                ZookeeperRegistryClient(
                    settings.zookeeper_hosts,
                    settings.zookeeper_base_path,
                    settings.service_instance_id,
                    connection_seconds=settings.zookeeper_connection_timeout,
                    session_seconds=settings.zookeeper_session_timeout,
                    auth=settings.zookeeper_credential,
                    others=settings.zookeeper_acl.removeprefix("none"),
                    supervisor=supervisor,
                )
            )
            kinds["registry"] = f"{registry.name} ({settings.zookeeper_hosts}{settings.zookeeper_base_path})"
        else:
            registry = await stack.enter_async_context(
                LocalRegistryClient(LocalRegistry(), settings.service_instance_id)
            )
            kinds["registry"] = registry.name
        yield Backends(storage, cache, bus, publisher, registry, kinds)


@asynccontextmanager
async def embedded_storage(
    settings: Settings, clock: Clock, supervisor: Supervisor | None = None
) -> AsyncIterator[SqliteStorage]:
    """The SQLite file. Raises `SettingsError` where it can't be used and waiting would not help."""
    path = settings.sqlite_path
    storage = SqliteStorage(Path(path), supervisor=supervisor)
    give_up_at = clock.monotonic() + HANDOVER_SECONDS
    async with AsyncExitStack() as stack:
        while True:
            try:
                await stack.enter_async_context(storage)
                break
            except ServiceError as error:
                if error.reason == "STORAGE_FULL":
                    raise
                if error.reason != "STORAGE_IN_USE" or clock.monotonic() > give_up_at:
                    raise SettingsError(
                        [f"SQLITE_PATH: '{path}' can't be used: {error}; it must be a file that this user may write"]
                    ) from error
                await clock.sleep(HANDOVER_POLL_SECONDS)
        yield storage


async def new_history(settings: Settings, leap: int) -> LogState:
    """Gives the log a new history, which begins `leap` above its head. Raises `Unavailable` where the database is away."""
    async with AsyncExitStack() as stack:
        storage: Storage
        if settings.database_url:
            storage = await stack.enter_async_context(PostgresStorage(settings.database_url))
        else:
            storage = await stack.enter_async_context(embedded_storage(settings, SystemClock()))
        return await storage.new_history("an operator marked it (`configsvc new-history`)", leap)


async def migrate(settings: Settings) -> str:
    """Brings the database's schema up to date; returns what the database is. Raises `Unavailable` where it is away."""
    if settings.database_url:
        async with PostgresStorage(settings.database_url) as storage:
            return storage.name
    async with embedded_storage(settings, SystemClock()) as embedded:
        return f"{embedded.name} ({settings.sqlite_path})"
