"""What another program shows in ZooKeeper, as callers of this service see it over the wire: lists, discovery, watches."""

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


async def change(watch: Any) -> registry_pb2.InstanceChange:
    while not (message := await watch.read()).HasField("change"):
        assert message.HasField("progress")
    found: registry_pb2.InstanceChange = message.change
    return found


async def test_it_is_listed_discovered_and_watched_alike(
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
    came = await change(watch)
    assert (came.type, came.revision, came.revision_complete) == ("PUT", registered.revision, True)
    assert (came.instance.instance_id, came.instance.foreign, came.instance.service_url) == ("jvm", True, "http://h:1")
    found = await registry.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name="svc"))
    assert list(found.instances) == [came.instance, registered.instance]
    listed = await registry.ListServices(registry_pb2.ListServicesRequest())
    assert [(s.service_name, s.instances, s.healthy) for s in listed.services] == [("svc", 2, 2)]

    stranger.set(path, jvm(enabled=False))
    changed = await change(watch)
    assert (changed.type, changed.previous, changed.instance.status) == ("PUT", came.instance, "OUT_OF_SERVICE")
    found = await registry.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name="svc"))
    assert [i.instance_id for i in found.instances] == ["ours"]
    found = await registry.GetService(registry_pb2.GetServiceRequest(service_name="svc"))
    assert list(found.instances) == [changed.instance, registered.instance]

    # What can't be read any more is no instance.
    stranger.set(path, b"{")
    gone = await change(watch)
    assert (gone.type, gone.instance.instance_id, gone.instance.foreign) == ("DELETE", "jvm", True)
    health = await health_pb2_grpc.HealthServiceStub(channel).GetHealth(health_pb2.GetHealthRequest())
    (part,) = [c for c in health.health.components if c.name == "registry"]
    assert part.state == "up"
    assert part.detail.startswith("1 node can't be read, and is left out: 'svc/jvm' (")
    assert health.health.status == "up", "it harms nobody else"
    watch.cancel()

    stranger.set(path, jvm(port=2))
    again = registry.WatchService(
        registry_pb2.WatchServiceRequest(service_name="svc", after_revision=registered.revision)
    )
    first = (await again.read()).snapshot
    if not first.instances:
        # The resume was quicker than the watch of the node.
        first = registry_pb2.InstanceSnapshot(foreign=first.foreign)
        assert (await again.read()).HasField("synced")
        first.instances.append((await change(again)).instance)
    assert first.foreign
    assert [(i.instance_id, i.service_url) for i in first.instances] == [("jvm", "http://h:2")]
    again.cancel()
