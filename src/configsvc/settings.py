"""Every setting, its unit, its default and what is allowed. The only place that reads the environment."""

import os
import re
import socket
import ssl
import uuid
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from configsvc.domain.limits import LARGEST_KEY_CHARACTERS, Limits

Network = IPv4Network | IPv6Network
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]

# What a server does after its calls have ended: hand on its instances, close its backends.
_CLOSING_SECONDS = 8


class SettingsError(Exception):
    """The environment can't be used. One line for each variable: its name, what it is, what is allowed."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(lines))


def _addresses(value: str) -> str:
    for part in value.split(",") if value else ():
        host, _, port = part.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("must be host:port, several separated by commas")
    return value


def _zookeeper(value: str) -> str:
    addresses, slash, path = value.partition("/")
    try:
        _addresses(addresses)
    except ValueError as error:
        raise ValueError(f"{error}, and perhaps one path at the end, such as host:port,host:port/path") from error
    segments = path.removesuffix("/").split("/")
    if slash and path and not all(re.fullmatch(r"[A-Za-z0-9._-]+", segment) for segment in segments):
        raise ValueError("the path at the end must have letters, digits, '.', '_' and '-' between its slashes")
    return value


def _database(value: str) -> str:
    if value and not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be empty (SQLite) or a postgresql:// URL")
    return value


def _path(value: str) -> str:
    if not value.startswith("/") or value.endswith("/"):
        raise ValueError("must be a path such as /services, without a slash at the end")
    return value


def _credential(value: SecretStr) -> SecretStr:
    scheme, _, credential = value.get_secret_value().partition(":")
    user, _, password = credential.partition(":")
    if scheme and (scheme != "digest" or not user or not password):
        raise ValueError("must be empty or digest:user:password")
    return value


def _networks(value: str) -> str:
    for part in filter(None, (part.strip() for part in value.split(","))):
        ip_network(part)
    return value


def _certificates(value: str) -> str:
    if value:
        try:
            ssl.create_default_context(cafile=value)
        except OSError as error:
            raise ValueError(f"must be a readable file of certificates in PEM: {error}") from error
    return value


def _ip(value: str) -> str:
    try:
        ip_address(value)
    except ValueError as error:
        raise ValueError("must be an IP address such as 0.0.0.0, 127.0.0.1 or ::") from error
    return value


def _parts(value: str) -> tuple[str, ...]:
    """What commas separate."""
    return tuple(part for part in (part.strip() for part in value.split(",")) if part)


def _hosts(value: str) -> str:
    for part in _parts(value):
        if part != "*" and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", part):
            raise ValueError("must be names or addresses without a port, IPv6 in brackets, or *; several with commas")
    return value


def _origins(value: str) -> str:
    for part in _parts(value):
        if part != "*" and not re.fullmatch(r"https?://[A-Za-z0-9._\[\]:-]+", part):
            raise ValueError(
                "must be origins such as https://app.example or http://localhost:3000, or *; several with commas"
            )
    return value


Addresses = Annotated[str, AfterValidator(_addresses)]


class Settings(BaseSettings):
    """The environment, checked. Names of fields are the variables', in lower case."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False, env_ignore_empty=True)

    # Where it listens.
    host: Annotated[str, AfterValidator(_ip)] = Field(
        "127.0.0.1", description="address that the gateway listens on; 0.0.0.0 or :: for all"
    )
    port: int = Field(8082, ge=0, le=65_535, description="port of REST, gRPC and gRPC-Web; 0: any free one, printed")
    workers: int = Field(1, ge=1, le=64, description="server processes behind the gateway; above 1 needs real backends")
    max_request_bytes: int = Field(
        8 << 20, ge=1 << 16, le=64 << 20, description="largest request body, in bytes; above: 413"
    )

    max_connections: int = Field(
        10_000, ge=16, le=1_000_000, description="connections that the gateway holds at once; more are closed"
    )
    gateway_memory_bytes: int = Field(
        1 << 30,
        ge=64 << 20,
        le=1 << 40,
        description="bytes of requests and answers under way at which the gateway takes no more of them: 503",
    )

    # Who may call.
    allowed_hosts: Annotated[str, AfterValidator(_hosts)] = Field(
        "",
        description="names that the Host header may have beside localhost and HOST, with commas; empty: no other where HOST"
        " is a loopback address, else any; *: any",
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "", description="web sites whose pages may call, as https://app.example, with commas; *: all; empty: none"
    )

    # Storage: PostgreSQL where DATABASE_URL is set, else the SQLite file.
    database_url: Annotated[str, AfterValidator(_database)] = Field(
        "", description="postgresql://user:password@host:port/database; empty: SQLite"
    )
    database_connections: int = Field(8, ge=1, le=100, description="connections to PostgreSQL that read, beside two")
    sqlite_path: str = Field("data/configsvc.db", min_length=1, description="file of the embedded database")

    # Cache: Redis or Valkey where REDIS_HOST is set, else in memory alone.
    redis_host: str = Field("", description="host of Redis or Valkey; empty: none")
    redis_port: int = Field(6379, ge=1, le=65_535, description="its port")
    redis_password: SecretStr = Field(SecretStr(""), description="its password; empty: none")

    redis_prefix: str = Field("configsvc:", max_length=64, description="what all keys start with")
    cache_ttl_seconds: Seconds = Field(86_400, description="seconds that a copy in Redis lives when nobody renews it")
    assignment_ttl_seconds: Annotated[float, Field(gt=0, le=10 * 365 * 86_400)] = Field(
        90 * 86_400, description="seconds that a sticky flag keeps what it gave to a user who does not come back"
    )

    # Bus: Kafka where KAFKA_BOOTSTRAP_SERVERS is set, else PostgreSQL's notifications, else in process.
    kafka_bootstrap_servers: Addresses = Field("", description="host:port, several with commas; empty: none")
    kafka_topic_config_updates: str = Field(
        "config-updates", pattern=r"^[A-Za-z0-9._-]{1,249}$", description="topic of the change events"
    )

    kafka_event_keys: Literal["kind", "plain"] = Field(
        "kind",
        description="keys of the events: kind (kind/environment/service/key), or plain (without the kind, as before"
        " schema version 2; a configuration and a flag may share one)",
    )
    kafka_tombstones: bool = Field(
        False, description="follow the event of a removal by an empty message (tombstone), for a compacted topic"
    )

    # Registry: ZooKeeper where ZOOKEEPER_HOSTS is set, else in process.
    zookeeper_hosts: Annotated[str, AfterValidator(_zookeeper)] = Field(
        "",
        description="host:port, several with commas, and at the end perhaps a path that everything lies below, which is"
        " made; empty: in process",
    )
    zookeeper_base_path: Annotated[str, AfterValidator(_path)] = Field("/services", description="where services lie")
    zookeeper_connection_timeout: Seconds = Field(10, description="seconds")
    zookeeper_session_timeout: Seconds = Field(10, description="seconds without contact until ephemeral nodes go")
    zookeeper_auth: Annotated[SecretStr, AfterValidator(_credential)] = Field(
        SecretStr(""), description="digest:user:password; only who has it may change what it made; empty: open to all"
    )
    zookeeper_acl: str = Field(
        "r",
        pattern=r"^(none|c?d?r?w?a?)$",
        description="with ZOOKEEPER_AUTH, what others may do to its nodes: letters of cdrwa (create, delete, read,"
        " write, admin), or none",
    )
    service_registry_enabled: bool = Field(True, description="register this service itself in its registry")
    service_url: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+.*)?$",
        description="URL under which others reach this service; empty: this host's name and PORT, or localhost where"
        " the registry is in process",
    )
    service_health_check_interval: Seconds = Field(10, description="seconds between checks of one instance")
    service_instance_id: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$",
        description="id of this replica; empty: host and a random part",
    )

    # Health checks of registered instances.
    health_check_timeout_seconds: Seconds = Field(2, description="seconds until a check has failed")
    health_check_healthy_threshold: Count = Field(1, description="passes in a row until an instance is healthy again")
    health_check_unhealthy_threshold: Count = Field(3, description="failures in a row until it is unhealthy")
    health_check_denied_networks: Annotated[str, AfterValidator(_networks), NoDecode] = Field(
        "169.254.0.0/16,fe80::/10,fd00:ec2::254/128",
        description="networks that are never checked, with commas; link-local and cloud metadata addresses never are",
    )
    health_check_private_networks: bool = Field(
        True, description="whether health checks may reach loopback and private networks"
    )
    health_check_ca_file: Annotated[str, AfterValidator(_certificates)] = Field(
        "", description="file of certificates (PEM) that https checks trust beside the system's; empty: none"
    )
    stale_instances_seconds: Seconds = Field(
        60, description="seconds that the last known instances are given when failing checks would empty a list"
    )
    lease_default_ttl_seconds: int = Field(30, ge=5, le=86_400, description="seconds, where a registration names none")

    # Limits of requests.
    max_key_characters: int = Field(
        512, ge=1, le=LARGEST_KEY_CHARACTERS, description="characters of a configuration key"
    )
    max_value_bytes: int = Field(1 << 20, ge=1, le=16 << 20, description="bytes of a value as JSON")
    max_page_size: int = Field(1_000, ge=1, le=10_000, description="items on a page")
    max_batch_size: int = Field(1_000, ge=1, le=10_000, description="items in a batch")
    max_metadata_entries: int = Field(64, ge=0, le=1_024, description="metadata entries of an instance")

    # The change log and its watchers.
    watch_buffer_messages: Count = Field(
        1_024, description="changes held for one watcher before they are merged by key"
    )
    watch_buffer_bytes: int = Field(
        16 << 20,
        ge=1 << 20,
        le=1 << 40,
        description="about the memory, in bytes, that changes held for one watcher take before they are merged by key",
    )
    watch_progress_seconds: Seconds = Field(
        10, description="seconds without a change until a watcher gets a progress mark"
    )
    log_poll_seconds: Seconds = Field(1, description="seconds between looks at the log where nothing wakes the reader")
    compaction_keep_changes: Count = Field(1_000_000, description="changes kept for history, audit and resumed watches")
    compaction_keep_days: float = Field(
        0,
        ge=0,
        le=36_500,
        description="days after which a change is forgotten even so, a silence of the log counted as a tenth of it; 0: whatever its age",
    )
    compaction_interval_seconds: Seconds = Field(300, description="seconds between compactions")
    near_cache_entries: Count = Field(10_000, description="configuration values held in memory")
    near_cache_bytes: int = Field(
        128 << 20, ge=1 << 20, le=1 << 40, description="about the memory, in bytes, that they take in each worker"
    )

    # Running.
    default_deadline_seconds: Seconds = Field(10, description="seconds, for a unary call that has no deadline")
    shutdown_grace_seconds: Seconds = Field(10, description="seconds that calls in flight have when the service stops")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    @property
    def limits(self) -> Limits:
        """The limits of requests as the domain wants them."""
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
        given = _parts(self.allowed_hosts.lower())
        if "*" in given or not (given or ip_address(self.host).is_loopback):
            return None
        own = f"[{self.host}]" if ":" in self.host else self.host
        # Others know this service by its URL.
        url = urlsplit(self.service_url).netloc.rpartition("@")[2]
        named = url if url.endswith("]") else url.rpartition(":")[0] or url
        return frozenset({"localhost", "127.0.0.1", "[::1]", own, named.lower(), *given} - {""})

    @property
    def origins(self) -> tuple[str, ...]:
        """The web sites whose pages may call, in lower case, as browsers name them."""
        return _parts(self.cors_origins.lower())

    @property
    def stop_seconds(self) -> float:
        """How long an orderly stop of one server may take, before it is ended."""
        return self.shutdown_grace_seconds + _CLOSING_SECONDS

    @property
    def denied_networks(self) -> tuple[Network, ...]:
        """Networks that are never checked."""
        parts = (part.strip() for part in self.health_check_denied_networks.split(","))
        return tuple(ip_network(part) for part in parts if part)

    @property
    def zookeeper_credential(self) -> tuple[str, str] | None:
        """Scheme and credential, where there are any."""
        scheme, _, credential = self.zookeeper_auth.get_secret_value().partition(":")
        return (scheme, credential) if scheme else None

    @property
    def embedded(self) -> tuple[str, ...]:
        """The ports whose embedded default lives in one process."""
        chosen = {"storage": self.database_url, "registry": self.zookeeper_hosts}
        return tuple(port for port, address in chosen.items() if not address)


# An environment that still has one starts as if it had not.
REMOVED_SETTINGS = {"SHARE_EVALUATIONS": "flags are always evaluated in the process, which is faster"}


def load(**overrides: Any) -> Settings:
    """The settings of this process. `overrides` come before the environment, by field name.

    Raises:
        SettingsError: with a line for each variable that can't be used.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsError([_line(problem) for problem in error.errors()]) from error
    if not settings.service_instance_id:
        made = f"{socket.gethostname()[:64]}-{uuid.uuid4().hex[:8]}".lstrip("._-")
        settings = settings.model_copy(update={"service_instance_id": made})
    if not settings.service_url:
        host = settings.host
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname() if settings.zookeeper_hosts else "localhost"
        host = f"[{host}]" if ":" in host else host
        settings = settings.model_copy(update={"service_url": f"http://{host}:{settings.port or 8082}"})
    if settings.workers > 1 and settings.embedded:
        raise SettingsError(
            [
                f"WORKERS is {settings.workers}: allowed is 1, since the embedded backends ({', '.join(settings.embedded)})"
                " live in one process; set DATABASE_URL and ZOOKEEPER_HOSTS for more"
            ]
        )
    return settings


def removed_settings() -> tuple[str, ...]:
    """A line for each setting of an earlier release that the environment still has. It changes nothing."""
    return tuple(f"{name} is ignored: {reason}" for name, reason in REMOVED_SETTINGS.items() if os.environ.get(name))


def child_environment(settings: Settings, **changes: str) -> dict[str, str]:
    """The environment for a process of this service that shall have the same settings."""
    return {**os.environ, "SERVICE_INSTANCE_ID": settings.service_instance_id, **changes}


def template() -> Iterator[str]:
    """The lines of `env.template`: every variable with its unit and default."""
    yield "# Every setting of configsvc, with its default. Made by `configsvc env-template`; do not edit."
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        text = str(default).lower() if isinstance(default, bool) else str(default)
        yield ""
        yield f"# {field.description}"
        yield f"{name.upper()}={text}"


def _line(problem: Any) -> str:
    name = str(problem["loc"][0])
    secret = any(part in name for part in ("password", "url", "auth"))
    given = "the value given" if secret else repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    meaning = Settings.model_fields[name].description if name in Settings.model_fields else ""
    return f"{name.upper()}: {given} can't be used: {message} ({meaning})"
