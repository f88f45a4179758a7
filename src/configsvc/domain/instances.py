"""Instances of services, as callers read them, and the identity of each of their lives."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from configsvc.domain.records import Kind, Record, Ref

HEALTHY, UNHEALTHY, SUSPECT = "HEALTHY", "UNHEALTHY", "SUSPECT"
# The status of a foreign instance whose program says that it takes no requests.
OUT_OF_SERVICE = "OUT_OF_SERVICE"
DEFAULT_WEIGHT = 100
# The lease of a record without one. Every release so far has written it.
DEFAULT_TTL_SECONDS = 30


def instance_ref(service_name: str, instance_id: str) -> Ref:
    """The identity of an instance."""
    return Ref(Kind.INSTANCE, "", service_name, instance_id)


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """One life of an instance: from its registration until it leaves. `number` is higher in each later life.

    Streams, checks, leases and heartbeats belong to one incarnation: the state of an earlier incarnation under the same
    id says nothing about this one. Number 0: registered by a release that did not count incarnations.
    """

    ref: Ref
    number: int

    @classmethod
    def of(cls, record: Record) -> Self:
        """The incarnation that a record belongs to."""
        return cls(record.ref, record.body.get("incarnation", 0))


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance. `owner` is the replica that keeps its lease and its node in the registry.

    `generation` rises with each change of owner, and is not reset when the instance leaves and registers again.
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

    @classmethod
    def of(cls, record: Record, last_heartbeat_at: datetime | None = None) -> Self:
        """The instance that a record holds. A member that the record does not have gets its default.

        `last_heartbeat_at`: None if this replica does not know it. The time of the record's last change is shown then.
        """
        body = record.body
        return cls(
            service_name=record.ref.service,
            instance_id=record.ref.key,
            service_url=body.get("service_url", ""),
            health_check_url=body.get("health_check_url", ""),
            status=body.get("status", HEALTHY),
            metadata=body.get("metadata", {}),
            weight=body.get("weight", DEFAULT_WEIGHT),
            zone=body.get("zone", ""),
            version=body.get("version", ""),
            lease_ttl_seconds=body.get("lease_ttl_seconds", DEFAULT_TTL_SECONDS),
            registered_at=record.created_at,
            last_heartbeat_at=last_heartbeat_at or record.updated_at,
            revision=record.revision,
            etag=record.etag,
            owner=body.get("owner", ""),
            generation=body.get("generation", 0),
            incarnation=body.get("incarnation", 0),
        )

    @classmethod
    def foreign(cls, service: str, instance_id: str, payload: Mapping[str, object], seen_at: datetime) -> Self:
        """An instance that another program shows in the registry. It has no record, so no version and no lease here.

        `seen_at`: when it was first seen. It counts as registered then, if its payload has no time of registration.
        """
        metadata = payload.get("metadata")
        registered_at = payload.get("registered_at")
        return cls(
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
            registered_at=datetime.fromisoformat(registered_at) if isinstance(registered_at, str) else seen_at,
            last_heartbeat_at=seen_at,
            revision=0,
            etag="",
            owner="",
            generation=0,
        )

    @property
    def ref(self) -> Ref:
        """The record's identity."""
        return instance_ref(self.service_name, self.instance_id)


@dataclass(frozen=True, slots=True)
class Listing:
    """Instances in the order of id. `stale`: the last known state, which may be out of date."""

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
    """The result of one health check of one instance.

    `skipped`: there was no check; the instance has no health check URL, or too many checks were waiting.
    """

    instance_id: str
    passed: bool
    status: str
    latency_ms: float
    error: str
    checked_at: datetime
    skipped: bool = False


def successor_of(ref: Ref, replicas: Collection[str]) -> str:
    """The replica that an orphaned instance falls to.

    All replicas that see the same set compute the same successor, and orphans are spread evenly. Rendezvous hashing
    (Thaler and Ravishankar 1998).
    """
    return max(replicas, key=lambda r: hashlib.sha256(f"{r}\n{ref.service}\n{ref.key}".encode()).digest())
