"""Instances of services as messages, and the filters of requests about them."""

from datetime import UTC, datetime

import pytest
from configsvc_client.v1 import registry_pb2

from configsvc.app.registry.service_watch import ForeignChanged, ForeignSnapshot
from configsvc.domain.instances import HEALTHY, CheckResult, Instance
from configsvc.errors import InvalidInput
from configsvc.rpc import convert

AT = datetime(2025, 1, 1, tzinfo=UTC)


def instance(instance_id: str = "a", owner: str = "") -> Instance:
    return Instance(
        service_name="shop",
        instance_id=instance_id,
        service_url="http://h:1",
        health_check_url="http://h:1/health",
        status=HEALTHY,
        metadata={"k": "v"},
        weight=7,
        zone="z",
        version="1.2",
        lease_ttl_seconds=30,
        registered_at=AT,
        last_heartbeat_at=AT,
        revision=9,
        etag="1-9-h",
        owner=owner,
        generation=1,
    )


def test_registration_comes_back_in_the_instance() -> None:
    request = registry_pb2.RegisterInstanceRequest(
        service_name="shop", service_url="http://h:1", instance_id="a", health_check_url="http://h:1/health",
        metadata={"k": "v"}, weight=7, zone="z", version="1.2", lease_ttl_seconds=30,
    )  # fmt: skip
    registration, message = convert.registration(request), convert.instance(instance(owner="replica"))
    for field in (
        "service_name", "service_url", "instance_id", "health_check_url", "weight", "zone", "version",
        "lease_ttl_seconds",
    ):  # fmt: skip
        assert getattr(registration, field) == getattr(request, field) == getattr(message, field), field
    assert registration.metadata == dict(message.metadata) == {"k": "v"}
    assert (message.status, message.revision, message.etag, message.foreign) == (HEALTHY, 9, "1-9-h", False)
    assert message.registered_at == message.last_heartbeat_at == convert.timestamp(AT)


def test_check_result_has_each_of_its_members() -> None:
    result = CheckResult("a", False, "UNHEALTHY", 1.23456, "refused", AT, skipped=True)
    assert convert.check_result(result) == registry_pb2.HealthCheckResult(
        instance_id="a",
        passed=False,
        status="UNHEALTHY",
        latency_ms=1.235,
        error="refused",
        checked_at=convert.timestamp(AT),
        skipped=True,
    )


def test_metadata_filter_is_read_from_pairs() -> None:
    assert convert.metadata_filter(["zone=a", "note=b=c", "empty="], 3) == {"zone": "a", "note": "b=c", "empty": ""}


@pytest.mark.parametrize("texts", [["zone"], ["=a"], [""], ["ok=1", "zone"], ["a=1", "b=2", "c=3", "d=4"]])
def test_metadata_filter_that_is_not_pairs_or_too_long_is_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        convert.metadata_filter(texts, 3)
    assert [violation.field for violation in refused.value.violations] == ["metadata"]


def test_foreign_snapshot_is_marked_even_if_it_is_empty() -> None:
    (message,) = convert.foreign_event(ForeignSnapshot(()))
    assert message == registry_pb2.WatchServiceResponse(snapshot=registry_pb2.InstanceSnapshot(foreign=True))
    (message,) = convert.foreign_event(ForeignSnapshot((instance("a"), instance("b"))))
    assert [(one.instance_id, one.foreign) for one in message.snapshot.instances] == [("a", True), ("b", True)]


def test_foreign_change_is_complete_and_a_removal_has_the_identity_alone() -> None:
    (put,) = convert.foreign_event(ForeignChanged(5, instance("a"), instance("b")))
    assert (put.change.revision, put.change.type, put.change.revision_complete) == (5, "PUT", True)
    assert (put.change.instance.weight, put.change.previous.instance_id) == (7, "b")
    (removed,) = convert.foreign_event(ForeignChanged(6, instance("a"), None, is_gone=True))
    assert removed.change.type == "DELETE"
    assert removed.change.instance == registry_pb2.Instance(service_name="shop", instance_id="a", foreign=True)
    assert not removed.change.HasField("previous")
