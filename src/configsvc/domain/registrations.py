"""Registrations: what an instance says about itself, which values are allowed, and the record that they make."""

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from configsvc.domain.addresses import DEFAULT_RULES, AddressRules
from configsvc.domain.fields import SERVICE_NAME_CHARACTERS, Fields
from configsvc.domain.instances import DEFAULT_WEIGHT, HEALTHY, UNHEALTHY, instance_ref
from configsvc.domain.records import Action, JsonObject, Mutation, Put, Record, View

SERVICE_SCHEMES = ("http", "https", "grpc", "tcp")
CHECK_SCHEMES = ("http", "https", "tcp", "grpc")
URL_CHARACTERS = 2_048
LABEL_CHARACTERS = 128
METADATA_VALUE_CHARACTERS = 1_024
LARGEST_WEIGHT = 1_000_000
# Below 5 seconds, one lost heartbeat would end a lease. More than a day is not a lease.
SHORTEST_TTL_SECONDS, LONGEST_TTL_SECONDS = 5, 86_400


@dataclass(frozen=True, slots=True)
class Registration:
    """What an instance says about itself.

    A weight or a lease of 0 means the default. An empty instance id means an id that is derived from the URL.
    """

    service_name: str
    service_url: str
    instance_id: str = ""
    health_check_url: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    weight: int = 0
    zone: str = ""
    version: str = ""
    lease_ttl_seconds: int = 0


def with_defaults(registration: Registration, default_ttl_seconds: int) -> Registration:
    """The registration with its defaults filled in.

    A missing id is derived from service and URL, so that registering twice makes one instance.
    """
    digest = hashlib.sha256(f"{registration.service_name}\n{registration.service_url}".encode()).hexdigest()
    return replace(
        registration,
        instance_id=registration.instance_id or f"{registration.service_name[:64]}-{digest[:12]}",
        weight=registration.weight or DEFAULT_WEIGHT,
        lease_ttl_seconds=registration.lease_ttl_seconds or default_ttl_seconds,
    )


def validate(fields: Fields, registration: Registration, addresses: AddressRules = DEFAULT_RULES) -> None:
    """Refuses values that are not allowed. The violations name the fields of a RegisterInstanceRequest.

    `addresses` judges the health check URL only. This service never connects to a service URL, so only the addresses
    that no caller may be sent to are refused there.
    """
    fields.service(registration.service_name, required=True)
    fields.name("instance_id", registration.instance_id, SERVICE_NAME_CHARACTERS, required=False)
    _validate_url(fields, "service_url", registration.service_url, SERVICE_SCHEMES, DEFAULT_RULES, required=True)
    _validate_url(fields, "health_check_url", registration.health_check_url, CHECK_SCHEMES, addresses, required=False)
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


def register(registration: Registration, replica_id: str, live: Container[str], view: View) -> Sequence[Mutation]:
    """Creates the instance or replaces its registration in place. An identical registration changes nothing.

    The owner stays the owner while it is among the `live` replicas. So a client that registers repeatedly through
    different replicas does not move the instance each time. If the owner is dead, `replica_id` becomes the owner.

    A new incarnation is HEALTHY until its checks say otherwise. From then on the checks decide: an instance that fails
    them does not become HEALTHY by registering again. Without checks, or if the instance was SUSPECT, registering makes
    it HEALTHY, as a heartbeat does.

    The generation and the incarnation of a new instance are its version. The version is not reset when an instance is
    removed, so both are higher than any before.
    """
    ref = instance_ref(registration.service_name, registration.instance_id)
    current = view.get(ref)
    registered: JsonObject = {
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
        body = {
            **registered, "status": HEALTHY, "owner": replica_id, "generation": number, "incarnation": number
        }  # fmt: skip
        return (Put(ref, body, Action.CREATE),)
    keeps_owner = current.body["owner"] == replica_id or current.body["owner"] in live
    owner = current.body["owner"] if keeps_owner else replica_id
    generation = current.body["generation"] + (0 if keeps_owner else 1)
    status = UNHEALTHY if registration.health_check_url and current.body["status"] == UNHEALTHY else HEALTHY
    body = {**current.body, **registered, "status": status, "owner": owner, "generation": generation}
    return () if dict(current.body) == body else (Put(ref, body, Action.UPDATE),)


def updated(current: Record, action: Action, **changes: object) -> Mutation:
    """The same registration with some members changed."""
    return Put(current.ref, {**current.body, **changes}, action)


def _validate_url(
    fields: Fields, name: str, url: str, schemes: Sequence[str], addresses: AddressRules, *, required: bool
) -> None:
    if not url:
        if required:
            fields.refuse(name, f"is required: an absolute URL with one of the schemes {', '.join(schemes)}")
        return
    violations_before = len(fields.violations)
    fields.text(name, url, URL_CHARACTERS)
    if len(fields.violations) > violations_before:
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
