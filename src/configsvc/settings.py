"""Every setting: its unit, its default and its allowed values. The only module that reads the environment."""

import os
import socket
import uuid
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from configsvc.cores import usable_cores
from configsvc.domain.limits import LARGEST_KEY_CHARACTERS, Limits
from configsvc.setting_types import (
    AUTO_WORKERS,
    MOST_WORKERS,
    Addresses,
    CertificateFile,
    Count,
    Credential,
    DatabaseUrl,
    HostNames,
    IpAddress,
    MemoryBytes,
    Network,
    Networks,
    Origins,
    Port,
    Seconds,
    WorkerCount,
    ZookeeperHosts,
    ZookeeperPath,
    comma_separated,
)

# How long a server that has finished its calls may take to hand over its instances and to close its backends.
CLOSING_SECONDS = 8


class SettingsError(Exception):
    """The environment can't be used. One line for each variable: its name, its value, and what is allowed."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(lines))


class Settings(BaseSettings):
    """The environment, checked. The fields have the variables' names in lower case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, env_ignore_empty=True)

    # The gateway.
    host: IpAddress = Field(
        "127.0.0.1", description="address that the gateway listens on; 0.0.0.0 or :: for all addresses"
    )
    port: int = Field(
        8082, ge=0, le=65_535, description="port for REST, gRPC and gRPC-Web; 0: any free port, which is printed"
    )
    workers: WorkerCount = Field(
        1,
        description="server processes behind the gateway; more than 1 needs DATABASE_URL and ZOOKEEPER_HOSTS; auto: one for"
        " each core that the service may use, or 1 without these",
    )
    max_request_bytes: int = Field(
        8 << 20, ge=1 << 16, le=64 << 20, description="largest request body in bytes; a larger one is refused with 413"
    )
    max_connections: int = Field(
        10_000, ge=16, le=1_000_000, description="connections that the gateway has at the same time; more are closed"
    )
    gateway_memory_bytes: int = Field(
        1 << 30,
        ge=64 << 20,
        le=1 << 40,
        description="memory in bytes for requests and answers in flight; near it, the gateway refuses requests with 503",
    )

    # Who may call.
    allowed_hosts: HostNames = Field(
        "",
        description="names that a Host header may have in addition to localhost and HOST, separated by commas; *: any;"
        " empty: no other name if HOST is a loopback address, otherwise any",
    )
    cors_origins: Origins = Field(
        "",
        description="web sites whose pages may call, such as https://app.example, separated by commas; *: all; empty: none",
    )

    # Storage: PostgreSQL if DATABASE_URL is set, otherwise the SQLite file.
    database_url: DatabaseUrl = Field("", description="postgresql://user:password@host:port/database; empty: SQLite")
    database_connections: int = Field(
        8, ge=1, le=100, description="read connections to PostgreSQL per worker, in addition to two others"
    )
    sqlite_path: str = Field("data/configsvc.db", min_length=1, description="file of the embedded database")

    # Cache: Redis or Valkey if REDIS_HOST is set, otherwise only in memory.
    redis_host: str = Field("", description="host of Redis or Valkey; empty: none")
    redis_port: Port = Field(6379, description="port of Redis or Valkey")
    redis_password: SecretStr = Field(SecretStr(""), description="password of Redis or Valkey; empty: none")
    redis_prefix: str = Field("configsvc:", max_length=64, description="prefix of all keys in Redis")
    cache_ttl_seconds: Seconds = Field(
        86_400, description="seconds until a copy in Redis expires if no replica renews it"
    )
    assignment_ttl_seconds: Annotated[float, Field(gt=0, le=10 * 365 * 86_400)] = Field(
        90 * 86_400, description="seconds that a sticky flag keeps the variant of a user who does not come back"
    )

    # Bus: Kafka if KAFKA_BOOTSTRAP_SERVERS is set, otherwise PostgreSQL's notifications, otherwise in the process.
    kafka_bootstrap_servers: Addresses = Field(
        "", description="host:port of Kafka brokers, separated by commas; empty: no Kafka"
    )
    kafka_topic_config_updates: str = Field(
        "config-updates", pattern=r"^[A-Za-z0-9._-]{1,249}$", description="topic of the change events"
    )
    kafka_event_keys: Literal["kind", "plain"] = Field(
        "kind",
        description="keys of the events; kind: kind/environment/service/key; plain: without the kind, as before schema"
        " version 2, so that a configuration and a flag may share a key",
    )
    kafka_tombstones: bool = Field(
        False,
        description="whether an empty message (tombstone) follows the event of a removal, for compacted topics",
    )

    # Registry: ZooKeeper if ZOOKEEPER_HOSTS is set, otherwise in the process.
    zookeeper_hosts: ZookeeperHosts = Field(
        "",
        description="host:port of ZooKeeper servers, separated by commas; a path at the end is the root of all nodes, and"
        " is created; empty: no ZooKeeper",
    )
    zookeeper_base_path: ZookeeperPath = Field("/services", description="path of the services in ZooKeeper")
    zookeeper_connection_timeout: Seconds = Field(10, description="seconds that a start waits for ZooKeeper")
    zookeeper_session_timeout: Seconds = Field(
        10, description="seconds without contact until ZooKeeper removes a replica's ephemeral nodes"
    )
    zookeeper_auth: Credential = Field(
        SecretStr(""),
        description="digest:user:password; only who has it may change the nodes that it creates; empty: anyone may",
    )
    zookeeper_acl: str = Field(
        "r",
        pattern=r"^(none|c?d?r?w?a?)$",
        description="if ZOOKEEPER_AUTH is set, what others may do to the nodes: letters of cdrwa (create, delete, read,"
        " write, admin), or none",
    )
    service_registry_enabled: bool = Field(True, description="whether each replica registers itself in the registry")
    service_url: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+.*)?$",
        description="URL at which others reach this service; empty: this host's name and PORT, or localhost without"
        " ZooKeeper",
    )
    service_health_check_interval: Seconds = Field(10, description="seconds between two checks of an instance")
    service_instance_id: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$",
        description="id of this replica; empty: this host's name and a random part",
    )

    # Health checks of registered instances.
    health_check_timeout_seconds: Seconds = Field(2, description="seconds until a check without an answer fails")
    health_check_healthy_threshold: Count = Field(
        1, description="successful checks in a row until an instance is healthy again"
    )
    health_check_unhealthy_threshold: Count = Field(
        3, description="failed checks in a row until an instance is unhealthy"
    )
    health_check_denied_networks: Networks = Field(
        "169.254.0.0/16,fe80::/10,fd00:ec2::254/128",
        description="networks that are never checked, separated by commas; link-local and cloud metadata addresses are not"
        " checked in any case",
    )
    health_check_private_networks: bool = Field(
        True, description="whether health checks may reach loopback and private networks"
    )
    health_check_ca_file: CertificateFile = Field(
        "", description="file of certificates (PEM) that https checks trust in addition to the system's; empty: none"
    )
    stale_instances_seconds: Seconds = Field(
        60, description="seconds that the last known instances are returned if failed checks would empty the list"
    )
    lease_default_ttl_seconds: int = Field(
        30, ge=5, le=86_400, description="lease in seconds of a registration that names none"
    )

    # Limits of requests.
    max_key_characters: int = Field(
        512, ge=1, le=LARGEST_KEY_CHARACTERS, description="longest configuration key, in characters"
    )
    max_value_bytes: int = Field(1 << 20, ge=1, le=16 << 20, description="largest value, in bytes of its JSON")
    max_page_size: int = Field(1_000, ge=1, le=10_000, description="most items on a page")
    max_batch_size: int = Field(1_000, ge=1, le=10_000, description="most items in a batch")
    max_metadata_entries: int = Field(64, ge=0, le=1_024, description="most metadata entries of an instance")

    # The change log and its watchers.
    watch_buffer_messages: Count = Field(
        1_024, description="changes buffered for one watcher before they are merged by key"
    )
    watch_buffer_bytes: MemoryBytes = Field(
        16 << 20,
        description="approximate memory in bytes of the changes buffered for one watcher before they are merged by key",
    )
    watch_progress_seconds: Seconds = Field(
        10, description="seconds without a change until a watcher gets a progress message"
    )
    log_poll_seconds: Seconds = Field(
        1, description="seconds between two reads of the change log if no notification arrives"
    )
    compaction_keep_changes: Count = Field(1_000_000, description="changes kept for history, audit and resumed watches")
    compaction_keep_days: float = Field(
        0,
        ge=0,
        le=36_500,
        description="days after which changes are removed even if COMPACTION_KEEP_CHANGES would keep them, 0: never; a gap"
        " in the log during which no replica ran counts as at most a tenth, since the clock may have jumped",
    )
    compaction_interval_seconds: Seconds = Field(300, description="seconds between two compactions")
    near_cache_entries: Count = Field(10_000, description="configuration values cached in memory")
    near_cache_bytes: MemoryBytes = Field(
        128 << 20, description="approximate memory in bytes of these values, in each worker"
    )
    flag_sets_bytes: MemoryBytes = Field(
        256 << 20,
        description="approximate memory in bytes of the flags of the environments that are evaluated, in each worker; the"
        " environment that was read last stays, even if it alone is larger",
    )

    # The process.
    default_deadline_seconds: Seconds = Field(10, description="deadline in seconds of a unary call that has none")
    shutdown_grace_seconds: Seconds = Field(
        10, description="seconds that calls in flight have to finish when the service stops"
    )
    grpc_engine: Literal["", "native", "grpcio"] = Field(
        "",
        description="library that serves gRPC; native: pygrpc-native, which is faster and relies on limits of the gateway;"
        " grpcio: grpc.aio; default: native on unix sockets, where it has a wheel, else grpcio",
    )
    access_log: Literal["all", "sampled"] = Field(
        "sampled",
        description="calls that have a line in the log; sampled: of the quick successful reads of each method one a second"
        " (skipped: how many had none), and all others; all: each call",
    )
    access_log_slow_seconds: Seconds = Field(
        0.1, description="seconds from which on a successful read is slow, and always has a line in the log"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    @property
    def limits(self) -> Limits:
        """The limits of requests."""
        return Limits(
            key_characters=self.max_key_characters,
            value_bytes=self.max_value_bytes,
            page_size=self.max_page_size,
            batch_size=self.max_batch_size,
            metadata_entries=self.max_metadata_entries,
            default_page_size=min(Limits().default_page_size, self.max_page_size),
        )

    @property
    def host_names(self) -> frozenset[str] | None:
        """The names that a Host header may have, in lower case; None: any."""
        allowed = comma_separated(self.allowed_hosts.lower())
        if "*" in allowed or not (allowed or ip_address(self.host).is_loopback):
            return None
        own = f"[{self.host}]" if ":" in self.host else self.host
        # Other services call this one by its URL.
        url = urlsplit(self.service_url).netloc.rpartition("@")[2]
        url_host = url if url.endswith("]") else url.rpartition(":")[0] or url
        return frozenset({"localhost", "127.0.0.1", "[::1]", own, url_host.lower(), *allowed} - {""})

    @property
    def origins(self) -> tuple[str, ...]:
        """The web sites whose pages may call, in lower case, as browsers name them."""
        return comma_separated(self.cors_origins.lower())

    @property
    def stop_seconds(self) -> float:
        """How long an orderly stop of one server may take. After that, the process ends itself."""
        return self.shutdown_grace_seconds + CLOSING_SECONDS

    @property
    def denied_networks(self) -> tuple[Network, ...]:
        """The networks that are never checked."""
        return tuple(ip_network(part) for part in comma_separated(self.health_check_denied_networks))

    @property
    def zookeeper_credential(self) -> tuple[str, str] | None:
        """Scheme and credential; None if there are none."""
        scheme, _, credential = self.zookeeper_auth.get_secret_value().partition(":")
        return (scheme, credential) if scheme else None

    @property
    def embedded(self) -> tuple[str, ...]:
        """The ports whose backend is embedded, and so can't be shared by several processes."""
        addresses = {"storage": self.database_url, "registry": self.zookeeper_hosts}
        return tuple(port for port, address in addresses.items() if not address)


# Settings of earlier releases. An environment that still has one starts as if it had not.
REMOVED_SETTINGS = {"SHARE_EVALUATIONS": "flags are always evaluated in the process, which is faster"}


def load(**overrides: Any) -> Settings:
    """The settings of this process. `overrides`, by field name, take precedence over the environment.

    Raises:
        SettingsError: with a line for each variable that can't be used.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsError([_line(problem) for problem in error.errors()]) from error
    if not settings.service_instance_id:
        instance_id = f"{socket.gethostname()[:64]}-{uuid.uuid4().hex[:8]}".lstrip("._-")
        settings = settings.model_copy(update={"service_instance_id": instance_id})
    if not settings.service_url:
        settings = settings.model_copy(update={"service_url": _own_url(settings)})
    if settings.workers == AUTO_WORKERS:
        workers = 1 if settings.embedded else min(usable_cores(), MOST_WORKERS)
        settings = settings.model_copy(update={"workers": workers})
    if settings.workers > 1 and settings.embedded:
        raise SettingsError(
            [
                f"WORKERS is {settings.workers}: allowed is 1, because the embedded backends"
                f" ({', '.join(settings.embedded)}) live in one process; set DATABASE_URL and ZOOKEEPER_HOSTS for more"
            ]
        )
    return settings


def removed_settings() -> tuple[str, ...]:
    """A line for each setting of an earlier release that the environment still has. It changes nothing."""
    return tuple(f"{name} is ignored: {reason}" for name, reason in REMOVED_SETTINGS.items() if os.environ.get(name))


def child_environment(settings: Settings, **changes: str) -> dict[str, str]:
    """The environment for another process of this service, with the same settings except `changes`."""
    return {**os.environ, "SERVICE_INSTANCE_ID": settings.service_instance_id, **changes}


def template() -> Iterator[str]:
    """The lines of `env.template`: every variable with its description and default."""
    yield "# Every setting of configsvc, with its default. Made by `configsvc env-template`; do not edit."
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        text = str(default).lower() if isinstance(default, bool) else str(default)
        yield ""
        yield f"# {field.description}"
        yield f"{name.upper()}={text}"


def _own_url(settings: Settings) -> str:
    host = settings.host
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname() if settings.zookeeper_hosts else "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port or 8082}"


def _line(problem: Any) -> str:
    name = str(problem["loc"][0])
    is_secret = any(part in name for part in ("password", "url", "auth"))
    value = "the given value" if is_secret else repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    description = Settings.model_fields[name].description if name in Settings.model_fields else ""
    return f"{name.upper()}: {value} can't be used: {message} ({description})"
