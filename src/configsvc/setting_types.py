"""The types of settings: what each kind of value may be, and the error text if it is something else."""

import re
import ssl
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

Network = IPv4Network | IPv6Network

# What `auto` is until the settings are complete.
AUTO_WORKERS = 0
MOST_WORKERS = 64


def comma_separated(value: str) -> tuple[str, ...]:
    """The parts of a list that is separated by commas."""
    return tuple(part for part in (part.strip() for part in value.split(",")) if part)


def _addresses(value: str) -> str:
    for part in value.split(",") if value else ():
        host, _, port = part.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("must be host:port, several separated by commas")
    return value


def _zookeeper_hosts(value: str) -> str:
    addresses, slash, path = value.partition("/")
    try:
        _addresses(addresses)
    except ValueError as error:
        raise ValueError(f"{error}, and optionally one path at the end, such as host:port,host:port/path") from error
    segments = path.removesuffix("/").split("/")
    if slash and path and not all(re.fullmatch(r"[A-Za-z0-9._-]+", segment) for segment in segments):
        raise ValueError("the path at the end must have letters, digits, '.', '_' and '-' between its slashes")
    return value


def _database_url(value: str) -> str:
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


def _worker_count(value: object) -> object:
    if value == "auto":
        return AUTO_WORKERS
    if str(value).strip() == str(AUTO_WORKERS):
        raise ValueError("must be at least 1, or auto")
    return value


def _networks(value: str) -> str:
    for part in comma_separated(value):
        ip_network(part)
    return value


def _certificates(value: str) -> str:
    if value:
        try:
            ssl.create_default_context(cafile=value)
        except OSError as error:
            raise ValueError(f"must be a readable file of certificates in PEM: {error}") from error
    return value


def _ip_address(value: str) -> str:
    try:
        ip_address(value)
    except ValueError as error:
        raise ValueError("must be an IP address such as 0.0.0.0, 127.0.0.1 or ::") from error
    return value


def _host_names(value: str) -> str:
    for part in comma_separated(value):
        if part != "*" and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", part):
            raise ValueError(
                "must be names or addresses without a port, IPv6 in brackets, or *; several separated by commas"
            )
    return value


def _origins(value: str) -> str:
    for part in comma_separated(value):
        if part != "*" and not re.fullmatch(r"https?://[A-Za-z0-9._\[\]:-]+", part):
            raise ValueError(
                "must be origins such as https://app.example or http://localhost:3000, or *; several separated by commas"
            )
    return value


Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
WorkerCount = Annotated[int, BeforeValidator(_worker_count), Field(ge=AUTO_WORKERS, le=MOST_WORKERS)]
Port = Annotated[int, Field(ge=1, le=65_535)]
MemoryBytes = Annotated[int, Field(ge=1 << 20, le=1 << 40)]
Addresses = Annotated[str, AfterValidator(_addresses)]
ZookeeperHosts = Annotated[str, AfterValidator(_zookeeper_hosts)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
ZookeeperPath = Annotated[str, AfterValidator(_path)]
Credential = Annotated[SecretStr, AfterValidator(_credential)]
Networks = Annotated[str, AfterValidator(_networks), NoDecode]
CertificateFile = Annotated[str, AfterValidator(_certificates)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
HostNames = Annotated[str, AfterValidator(_host_names)]
Origins = Annotated[str, AfterValidator(_origins)]
