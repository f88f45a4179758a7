"""Instances of services: what a registration says, what is allowed in it, and how it lies in a record."""

import hashlib
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from urllib.parse import urlsplit

from configsvc.domain.addresses import ANYONE, AddressRules
from configsvc.domain.fields import SERVICE_NAME_CHARACTERS, Fields
from configsvc.domain.records import Action, JsonObject, Kind, Mutation, Put, Record, Ref, View

HEALTHY, UNHEALTHY, SUSPECT = "HEALTHY", "UNHEALTHY", "SUSPECT"
# Of an instance that another program shows, and says of it that it takes no requests.
OUT_OF_SERVICE = "OUT_OF_SERVICE"

SERVICE_SCHEMES = ("http", "https", "grpc", "tcp")
CHECK_SCHEMES = ("http", "https", "tcp", "grpc")
URL_CHARACTERS = 2_048
LABEL_CHARACTERS = 128
METADATA_VALUE_CHARACTERS = 1_024
LARGEST_WEIGHT = 1_000_000
DEFAULT_WEIGHT = 100
# Below it one lost heartbeat would end a lease; above a day nobody means a lease.
SHORTEST_TTL_SECONDS, LONGEST_TTL_SECONDS = 5, 86_400


@dataclass(frozen=True, slots=True)
class Registration:
    """What an instance says of itself. Zero weight and lease ask for the defaults; an empty id for one made of the URL."""

    service_name: str
    service_url: str
    instance_id: str = ""
    health_check_url: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    weight: int = 0
    zone: str = ""
    version: str = ""
    lease_ttl_seconds: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """One life of an instance: from its registration until it leaves. `number` is higher in each later one.

    Streams, checks, leases and signs of life belong to one incarnation: what was learnt of an earlier one under the same
    id says nothing about this one. Number 0: registered by a release that did not count.
    """

    ref: Ref
    number: int


@dataclass(frozen=True, slots=True)
class Instance:
    """A registered instance. `owner` is the replica that keeps it.

    `generation` rises with each change of owner, and goes on if the instance leaves and registers again.
    """

    service_name: str
    instance_id: str
    service_url: str
    health_check_url: str
    status: str
    metadata: Mapping[str, str]
    weight: int
    zone: str
    version: str
    lease_ttl_seconds: int
    registered_at: datetime
    last_heartbeat_at: datetime
    revision: int
    etag: str
    owner: str
    generation: int
    incarnation: int = 0

    @property
    def ref(self) -> Ref:
        """The record's identity."""
        return instance_ref(self.service_name, self.instance_id)


@dataclass(frozen=True, slots=True)
class Listing:
    """Instances in the order of id. `stale`: the last known, not what is."""

    instances: tuple[Instance, ...]
    stale: bool
    revision: int


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """A service in numbers."""

    service_name: str
    instances: int
    healthy: int


@dataclass(frozen=True, slots=True)
class Picked:
    """The instance that a caller gets."""

    url: str
    instance_id: str
    strategy: str
    stale: bool
    revision: int


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One look at one instance. `skipped`: it has nothing to check."""

    instance_id: str
    passed: bool
    status: str
    latency_ms: float
    error: str
    checked_at: datetime
    skipped: bool = False


def instance_ref(service_name: str, instance_id: str) -> Ref:
    """The identity of an instance."""
    return Ref(Kind.INSTANCE, "", service_name, instance_id)


def heir_of(ref: Ref, replicas: Collection[str]) -> str:
    """Which replica an orphan falls to: the same for all that see the same replicas, and spread evenly over them.

    Rendezvous hashing (Thaler and Ravishankar 1998).
    """
    return max(replicas, key=lambda r: hashlib.sha256(f"{r}\n{ref.service}\n{ref.key}".encode()).digest())


def complete(registration: Registration, default_ttl_seconds: int) -> Registration:
    """With the defaults filled in. An id is made from service and URL, so that registering twice is one instance."""
    digest = hashlib.sha256(f"{registration.service_name}\n{registration.service_url}".encode()).hexdigest()
    return replace(
        registration,
        instance_id=registration.instance_id or f"{registration.service_name[:64]}-{digest[:12]}",
        weight=registration.weight or DEFAULT_WEIGHT,
        lease_ttl_seconds=registration.lease_ttl_seconds or default_ttl_seconds,
    )


def check(fields: Fields, registration: Registration, addresses: AddressRules = ANYONE) -> None:
    """Refuses what can't be accepted, naming the fields of a RegisterInstanceRequest.

    `addresses`: what may be checked. This service never connects to a service URL, so of that only what no caller may be
    sent to is refused.
    """
    fields.service(registration.service_name, required=True)
    fields.name("instance_id", registration.instance_id, SERVICE_NAME_CHARACTERS, required=False)
    _check_url(fields, "service_url", registration.service_url, SERVICE_SCHEMES, ANYONE, required=True)
    _check_url(fields, "health_check_url", registration.health_check_url, CHECK_SCHEMES, addresses, required=False)
    fields.count("metadata", len(registration.metadata), fields.limits.metadata_entries)
    for name, value in list(registration.metadata.items())[: fields.limits.metadata_entries]:
        fields.text("metadata", name, LABEL_CHARACTERS, required=True)
        fields.text(f"metadata[{name[:LABEL_CHARACTERS]}]", value, METADATA_VALUE_CHARACTERS)
    fields.text("zone", registration.zone, LABEL_CHARACTERS)
    fields.text("version", registration.version, LABEL_CHARACTERS)
    if not 0 <= registration.weight <= LARGEST_WEIGHT:
        fields.refuse(
            "weight", f"must be 1 to {LARGEST_WEIGHT}, or 0 for {DEFAULT_WEIGHT}; it is {registration.weight}"
        )
    ttl = registration.lease_ttl_seconds
    if ttl and not SHORTEST_TTL_SECONDS <= ttl <= LONGEST_TTL_SECONDS:
        allowed = f"{SHORTEST_TTL_SECONDS} to {LONGEST_TTL_SECONDS}"
        fields.refuse("lease_ttl_seconds", f"must be {allowed}, or 0 for the default; it is {ttl}")


def instance_of(record: Record, seen_at: datetime | None = None) -> Instance:
    """The instance that a record holds; `seen_at` is its last sign of life, where this replica knows of one."""
    body = record.body
    return Instance(
        service_name=record.ref.service,
        instance_id=record.ref.key,
        service_url=body["service_url"],
        health_check_url=body["health_check_url"],
        status=body["status"],
        metadata=body["metadata"],
        weight=body["weight"],
        zone=body["zone"],
        version=body["version"],
        lease_ttl_seconds=body["lease_ttl_seconds"],
        registered_at=record.created_at,
        last_heartbeat_at=seen_at or record.updated_at,
        revision=record.revision,
        etag=record.etag,
        owner=body["owner"],
        generation=body["generation"],
        incarnation=body.get("incarnation", 0),
    )


def incarnation_of(record: Record) -> Incarnation:
    """Which life of the instance a record is of."""
    return Incarnation(record.ref, record.body.get("incarnation", 0))


def registering(registration: Registration, me: str, live: Container[str], view: View) -> Sequence[Mutation]:
    """Creates the instance or replaces its registration in place; the same again changes nothing.

    It stays with its owner as long as that is among the live replicas, so that a client which registers again and
    again, each time through another replica, does not move it each time. Else it is `me`.

    A new incarnation is HEALTHY until its checks say otherwise. From then on the checks decide: an instance that fails
    them does not become HEALTHY by registering again. Without checks, or if it was SUSPECT, a registration is a sign of
    life like any other.

    Generation and incarnation of a new one are its version, which goes on after a removal: higher than any before.
    """
    ref = instance_ref(registration.service_name, registration.instance_id)
    current = view.get(ref)
    said: JsonObject = {
        "service_url": registration.service_url,
        "health_check_url": registration.health_check_url,
        "metadata": dict(registration.metadata),
        "weight": registration.weight,
        "zone": registration.zone,
        "version": registration.version,
        "lease_ttl_seconds": registration.lease_ttl_seconds,
    }
    if current is None:
        number = view.last_version(ref) + 1
        body = {**said, "status": HEALTHY, "owner": me, "generation": number, "incarnation": number}
        return (Put(ref, body, Action.CREATE),)
    same = current.body["owner"] == me or current.body["owner"] in live
    owner = current.body["owner"] if same else me
    generation = current.body["generation"] + (0 if same else 1)
    status = UNHEALTHY if registration.health_check_url and current.body["status"] == UNHEALTHY else HEALTHY
    body = {**current.body, **said, "status": status, "owner": owner, "generation": generation}
    return () if dict(current.body) == body else (Put(ref, body, Action.UPDATE),)


def foreign(service: str, instance_id: str, payload: Mapping[str, object], seen_at: datetime) -> Instance:
    """An instance that another program shows in the registry. It has no record, so no version and no lease of ours.

    `seen_at`: when it was first seen; it has registered then, if it does not say when.
    """
    metadata = payload.get("metadata")
    at = payload.get("registered_at")
    return Instance(
        service_name=service,
        instance_id=instance_id,
        service_url=str(payload.get("service_url", "")),
        health_check_url="",
        status=str(payload.get("status", HEALTHY)),
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, Mapping) else {},
        weight=DEFAULT_WEIGHT,
        zone="",
        version="",
        lease_ttl_seconds=0,
        registered_at=datetime.fromisoformat(at) if isinstance(at, str) else seen_at,
        last_heartbeat_at=seen_at,
        revision=0,
        etag="",
        owner="",
        generation=0,
    )


def restated(current: Record, action: Action, **changes: object) -> Mutation:
    """The same registration with some members changed."""
    return Put(current.ref, {**current.body, **changes}, action)


def _check_url(
    fields: Fields, name: str, url: str, schemes: Sequence[str], addresses: AddressRules, *, required: bool
) -> None:
    if not url:
        if required:
            fields.refuse(name, f"is required: an absolute URL with one of the schemes {', '.join(schemes)}")
        return
    before = len(fields.violations)
    fields.text(name, url, URL_CHARACTERS)
    if len(fields.violations) > before:
        return
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        fields.refuse(name, f"must be a URL: {error}")
        return
    if parts.scheme not in schemes:
        fields.refuse(name, f"must have one of the schemes {', '.join(schemes)}; it is '{url[:64]}'")
    elif not host or any(character.isspace() for character in url):
        fields.refuse(name, "must name a host, and have no spaces")
    elif parts.username is not None or parts.password is not None:
        fields.refuse(name, "must not have a user or a password: everyone who discovers the service would read them")
    elif port == 0 or (port is None and parts.scheme in ("tcp", "grpc")):
        fields.refuse(name, f"must name a port from 1 to 65535 with the scheme {parts.scheme}")
    elif refusal := addresses.refusal_of_host(host):
        fields.refuse(name, f"must have another address: '{host[:64]}' {refusal}")
