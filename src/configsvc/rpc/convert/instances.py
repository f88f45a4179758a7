"""Instances of services as messages."""

from collections.abc import Iterator, Sequence

from configsvc_client.v1 import registry_pb2

from configsvc.app.registry.service_watch import ForeignChanged, ForeignSnapshot, ServiceEvent
from configsvc.domain.instances import CheckResult, Instance, ServiceSummary
from configsvc.domain.records import Change
from configsvc.domain.registrations import Registration
from configsvc.errors import InvalidInput
from configsvc.rpc.convert.message_budget import Detail, MessageBudget
from configsvc.rpc.convert.values import timestamp


def registration(request: registry_pb2.RegisterInstanceRequest) -> Registration:
    """The registration that a request asks for."""
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
    """The result of one check of one instance."""
    return registry_pb2.HealthCheckResult(
        instance_id=result.instance_id,
        passed=result.passed,
        status=result.status,
        latency_ms=round(result.latency_ms, 3),
        error=result.error,
        checked_at=timestamp(result.checked_at),
        skipped=result.skipped,
    )


def metadata_filter(given: Sequence[str], most: int) -> dict[str, str]:
    """The metadata that instances must have, from texts `name=value`. Raises `InvalidInput`."""
    if len(given) > most:
        raise InvalidInput.of("metadata", f"must have at most {most} entries; it has {len(given)}")
    pairs = [text.partition("=") for text in given]
    if any(not name or not equals for name, equals, _ in pairs):
        raise InvalidInput.of("metadata", "must be name=value each")
    return {name: value for name, _, value in pairs}


def service_summary(service: ServiceSummary, _: Detail) -> registry_pb2.ServiceSummary:
    """A service in a list."""
    return registry_pb2.ServiceSummary(
        service_name=service.service_name, instances=service.instances, healthy=service.healthy
    )


def foreign_event(event: ServiceEvent) -> Iterator[registry_pb2.WatchServiceResponse]:
    """An event about instances that other programs show in the registry."""
    match event:
        case ForeignSnapshot(instances):
            yield from _foreign_snapshot(instances)
        case ForeignChanged():
            yield registry_pb2.WatchServiceResponse(change=_foreign_change(event))


def _foreign_snapshot(instances: Sequence[Instance]) -> Iterator[registry_pb2.WatchServiceResponse]:
    """As many messages as the instances need, at least one. Only the first is marked `foreign`."""
    rest, is_first = list(instances), True
    while rest or is_first:
        # Each instance fits: its texts are at most as long as those of a registration.
        part = MessageBudget().fill(lambda one, _: instance(one), rest)
        snapshot = registry_pb2.InstanceSnapshot(instances=part, foreign=is_first)
        yield registry_pb2.WatchServiceResponse(snapshot=snapshot)
        rest, is_first = rest[len(part) :], False


def _foreign_change(event: ForeignChanged) -> registry_pb2.InstanceChange:
    service, instance_id = event.instance.service_name, event.instance.instance_id
    removed = registry_pb2.Instance(service_name=service, instance_id=instance_id, foreign=True)
    return registry_pb2.InstanceChange(
        revision=event.revision,
        type="DELETE" if event.is_gone else "PUT",
        instance=removed if event.is_gone else instance(event.instance),
        previous=None if event.previous is None else instance(event.previous),
        revision_complete=True,
    )


def instance_change(change: Change, detail: Detail) -> registry_pb2.WatchServiceResponse:
    """A change as a watch shows it."""
    removed = registry_pb2.Instance(
        service_name=change.ref.service, instance_id=change.ref.key, revision=change.revision
    )
    previous = change.previous if detail.includes_before else None
    message = registry_pb2.InstanceChange(
        revision=change.revision,
        type="PUT" if change.record else "DELETE",
        instance=instance(Instance.of(change.record)) if change.record else removed,
        previous=instance(Instance.of(previous)) if previous is not None else None,
        previous_omitted=change.before is not None and not detail.includes_before,
    )
    return registry_pb2.WatchServiceResponse(change=message)
