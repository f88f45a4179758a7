"""Instances of services."""

from configsvc_client.v1 import registry_pb2

from configsvc.domain.instances import CheckResult, Instance
from configsvc.domain.registrations import Registration
from configsvc.rpc.convert.values import timestamp


def registration(request: registry_pb2.RegisterInstanceRequest) -> Registration:
    """What an instance says of itself."""
    return Registration(
        service_name=request.service_name,
        service_url=request.service_url,
        instance_id=request.instance_id,
        health_check_url=request.health_check_url,
        metadata=dict(sorted(request.metadata.items())),
        weight=request.weight,
        zone=request.zone,
        version=request.version,
        lease_ttl_seconds=request.lease_ttl_seconds,
    )


def instance(found: Instance) -> registry_pb2.Instance:
    """An instance."""
    return registry_pb2.Instance(
        service_name=found.service_name,
        instance_id=found.instance_id,
        service_url=found.service_url,
        health_check_url=found.health_check_url,
        status=found.status,
        metadata=found.metadata,
        weight=found.weight,
        zone=found.zone,
        version=found.version,
        lease_ttl_seconds=found.lease_ttl_seconds,
        registered_at=timestamp(found.registered_at),
        last_heartbeat_at=timestamp(found.last_heartbeat_at),
        revision=found.revision,
        etag=found.etag,
        foreign=not found.owner,
    )


def check_result(result: CheckResult) -> registry_pb2.HealthCheckResult:
    """One look at one instance."""
    return registry_pb2.HealthCheckResult(
        instance_id=result.instance_id,
        passed=result.passed,
        status=result.status,
        latency_ms=round(result.latency_ms, 3),
        error=result.error,
        checked_at=timestamp(result.checked_at),
        skipped=result.skipped,
    )
