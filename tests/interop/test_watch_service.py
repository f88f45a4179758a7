"""Instances of other programs in ZooKeeper, as callers of this service see them: lists, discovery, watches."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import health_pb2, health_pb2_grpc, registry_pb2, registry_pb2_grpc
from kazoo.client import KazooClient

from configsvc.settings import load
from configsvc.wiring import build

pytestmark = pytest.mark.timeout(120)


def jvm(**more: object) -> bytes:
    return json.dumps({"name": "svc", "id": "jvm", "address": "h", "port": 1, **more}).encode()


@pytest.fixture
def stranger(zookeeper_hosts: str) -> Iterator[KazooClient]:
    client = KazooClient(zookeeper_hosts)
    client.start(60)
    yield client
    client.stop()
    client.close()


@pytest.fixture
async def channel(tmp_path: Path, zookeeper_hosts: str, chroot: str) -> AsyncIterator[grpc.aio.Channel]:
    settings = load(
        sqlite_path=str(tmp_path / "configsvc.db"), zookeeper_hosts=zookeeper_hosts, zookeeper_base_path=chroot,
        service_registry_enabled=False, zookeeper_connection_timeout=60,
    )  # fmt: skip
    async with (
        build(settings, ["127.0.0.1:0"]) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as opened,
    ):
        yield opened


async def next_change(watch: Any) -> registry_pb2.InstanceChange:
    while not (message := await watch.read()).HasField("change"):
        assert message.HasField("progress")
    change: registry_pb2.InstanceChange = message.change
    return change


async def test_foreign_instance_is_the_same_in_lists_discovery_and_watches(
    channel: grpc.aio.Channel, stranger: KazooClient, chroot: str
) -> None:
    registry: Any = registry_pb2_grpc.RegistryServiceStub(channel)
    path = f"{chroot}/svc/jvm"
    registered = await registry.RegisterInstance(
        registry_pb2.RegisterInstanceRequest(service_name="svc", instance_id="ours", service_url="http://ours:1")
    )
    watch = registry.WatchService(registry_pb2.WatchServiceRequest(service_name="svc"))
    snapshot = (await watch.read()).snapshot
    assert [(i.instance_id, i.foreign) for i in snapshot.instances] == [("ours", False)]
    assert (await watch.read()).synced.revision == registered.revision

    stranger.create(path, jvm(), ephemeral=True)
    added = await next_change(watch)
    assert (added.type, added.revision, added.revision_complete) == ("PUT", registered.revision, True)
    assert (added.instance.instance_id, added.instance.foreign, added.instance.service_url) == (
        "jvm",
        True,
        "http://h:1",
    )
    answer = await registry.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name="svc"))
    assert list(answer.instances) == [added.instance, registered.instance]
    listed = await registry.ListServices(registry_pb2.ListServicesRequest())
    assert [(s.service_name, s.instances, s.healthy) for s in listed.services] == [("svc", 2, 2)]

    stranger.set(path, jvm(enabled=False))
    changed = await next_change(watch)
    assert (changed.type, changed.previous, changed.instance.status) == ("PUT", added.instance, "OUT_OF_SERVICE")
    answer = await registry.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name="svc"))
    assert [i.instance_id for i in answer.instances] == ["ours"]
    answer = await registry.GetService(registry_pb2.GetServiceRequest(service_name="svc"))
    assert list(answer.instances) == [changed.instance, registered.instance]

    # A node that can no longer be read is not an instance.
    stranger.set(path, b"{")
    removed = await next_change(watch)
    assert (removed.type, removed.instance.instance_id, removed.instance.foreign) == ("DELETE", "jvm", True)
    health = await health_pb2_grpc.HealthServiceStub(channel).GetHealth(health_pb2.GetHealthRequest())
    (part,) = [c for c in health.health.components if c.name == "registry"]
    assert part.state == "up"
    assert part.detail.startswith("1 node can't be read, and is left out: 'svc/jvm' (")
    assert health.health.status == "up", "it affects no other service"
    watch.cancel()

    stranger.set(path, jvm(port=2))
    again = registry.WatchService(
        registry_pb2.WatchServiceRequest(service_name="svc", after_revision=registered.revision)
    )
    first = (await again.read()).snapshot
    if not first.instances:
        # The resume was faster than the watch on the node.
        first = registry_pb2.InstanceSnapshot(foreign=first.foreign)
        assert (await again.read()).HasField("synced")
        first.instances.append((await next_change(again)).instance)
    assert first.foreign
    assert [(i.instance_id, i.service_url) for i in first.instances] == [("jvm", "http://h:2")]
    again.cancel()
