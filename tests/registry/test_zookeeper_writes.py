"""What showing an instance costs, as the server counts it, and what happens if others use the same paths."""

import asyncio
import json

import pytest
from kazoo.client import KazooClient

from configsvc.errors import FailedPrecondition
from configsvc.registry.port import Node
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from configsvc.registry.zookeeper.creates import GROUP_BYTES, GROUP_NODES
from tests.app.registry.world import ME, World, registration
from tests.conformance.registry.conftest import expire_session
from tests.engines import ZooKeeper
from tests.registry.conftest import eventually, requests, session, shows

NODES = 5 * GROUP_NODES
# A request for each group, and some for the list of the service, whose watch fires meanwhile.
FEW_REQUESTS = NODES // 8
FOREIGN = b'{"name":"svc","id":"i7","address":"theirs","port":1}'


def own(instance_id: str, generation: int = 1, **more: object) -> Node:
    return Node("svc", instance_id, "r1", generation, {"service_url": f"http://{instance_id}:80", **more})


async def test_many_nodes_are_created_with_few_requests(
    zookeeper_hosts: str, chroot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The watches of single nodes are not set within this test.
    monkeypatch.setattr("configsvc.registry.zookeeper.tree_cache.WATCH_PAUSE_SECONDS", 600.0)
    server, nodes = ZooKeeper(given=zookeeper_hosts), [own(f"i{number:04}") for number in range(NODES)]
    async with session(zookeeper_hosts, chroot, session_seconds=10) as client:
        await client.put(own("first"))
        before = requests(server, client)
        await asyncio.gather(*map(client.put, nodes))
        assert requests(server, client) - before < FEW_REQUESTS
        assert await client.nodes("svc") == [own("first"), *nodes]
        async with session(zookeeper_hosts, chroot, "r2", session_seconds=10) as other:
            assert await other.nodes("svc") == [own("first"), *nodes]
        before = requests(server, client)
        await asyncio.gather(*map(client.put, nodes))
        assert requests(server, client) - before < NODES // 100, "what is shown already is not written again"


async def test_node_that_can_not_be_created_does_not_prevent_the_others(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient
) -> None:
    async with session(zookeeper_hosts, chroot) as client:
        await client.put(own("first"))
        stranger.create(f"{chroot}/svc/i7", FOREIGN, ephemeral=True)
        done = await asyncio.gather(*(client.put(own(f"i{n}")) for n in range(20)), return_exceptions=True)
        refused = {number for number, outcome in enumerate(done) if outcome is not None}
        assert refused == {7}
        assert isinstance(done[7], FailedPrecondition)
        assert stranger.get(f"{chroot}/svc/i7")[0] == FOREIGN
        assert len(stranger.get_children(f"{chroot}/svc")) == 21


async def test_nodes_of_a_service_whose_path_was_removed_are_created(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient
) -> None:
    async with session(zookeeper_hosts, chroot) as client:
        await client.put(own("first"))
        await client.remove("svc", "first")
        stranger.delete(f"{chroot}/svc")
        await asyncio.gather(*(client.put(own(f"i{n}")) for n in range(3)))
        assert len(stranger.get_children(f"{chroot}/svc")) == 3


async def test_group_is_bounded_in_bytes(zookeeper_hosts: str, chroot: str) -> None:
    """ZooKeeper closes the connection after a request of more than a megabyte."""
    large = [own(f"i{n}", note="x" * (GROUP_BYTES // 3)) for n in range(9)]
    async with session(zookeeper_hosts, chroot) as client:
        await asyncio.gather(*map(client.put, large))
        assert await client.nodes("svc") == large


async def test_cancelled_caller_does_not_affect_the_others(zookeeper_hosts: str, chroot: str) -> None:
    async with session(zookeeper_hosts, chroot) as client:
        await client.put(own("first"))
        putting = [asyncio.ensure_future(client.put(own(f"i{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        putting[3].cancel()
        done = await asyncio.gather(*putting, return_exceptions=True)
        assert [type(outcome) for outcome in done if outcome is not None] == [asyncio.CancelledError]


async def test_update_of_a_watched_node_writes_without_reading(zookeeper_hosts: str, chroot: str) -> None:
    async with session(zookeeper_hosts, chroot) as client:
        await client.put(own("one"))
        await eventually(lambda: _is_watched(client))
        await client.put(own("one", weight=5))
        await eventually(lambda: _is_watched(client))
        assert await shows(client, own("one", weight=5))
        await client.remove("svc", "one")
        assert await shows(client)


async def _is_watched(client: ZookeeperRegistryClient) -> bool:
    known = client._cache.cached.get("svc", "one")
    return known is not None and known.version is not None


async def test_put_after_another_session_took_over_does_not_write_into_its_node(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient
) -> None:
    """The node of the other session has the same version of its data."""
    async with session(zookeeper_hosts, chroot, "r1") as one, session(zookeeper_hosts, chroot, "r2") as two:
        await one.put(own("one"))
        await eventually(lambda: _is_watched(one))
        await two.put(Node("svc", "one", "r2", 2, {}))
        await one.put(own("one", generation=3))
        await eventually(lambda: shows(two, own("one", generation=3)))
        assert stranger.exists(f"{chroot}/svc/one").ephemeralOwner == one._session.id


async def test_node_that_another_program_overwrites_is_corrected(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, world: World
) -> None:
    path = f"{chroot}/svc/one"
    async with session(zookeeper_hosts, chroot, "a") as client, world.replica("a", client=client) as replica:
        await replica.directory.register(registration("one", weight=7), ME)
        written = stranger.get(path)[0]
        document = json.loads(written)
        for weight in (1, 2):
            document["configsvc"]["registration"]["weight"] = weight
            stranger.set(path, json.dumps(document).encode())
            await eventually(lambda: _holds(stranger, path, written))


async def _holds(stranger: KazooClient, path: str, data: bytes) -> bool:
    return bool(stranger.get(path)[0] == data)


async def test_nodes_of_a_lost_session_are_created_again(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, world: World
) -> None:
    async with session(zookeeper_hosts, chroot, "a") as client, world.replica("a", client=client) as replica:
        for number in range(20):
            await replica.directory.register(registration(f"i{number}"), ME)
        old = client._session.id
        await expire_session(zookeeper_hosts, client)

        async def are_new() -> bool:
            stats = [stranger.exists(f"{chroot}/svc/i{number}") for number in range(20)]
            return all(stat is not None and stat.ephemeralOwner not in (0, old) for stat in stats)

        await eventually(are_new)


async def test_list_of_a_service_is_read_once_for_many_own_nodes(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configsvc.registry.zookeeper.tree_cache.WATCH_PAUSE_SECONDS", 600.0)
    server = ZooKeeper(given=zookeeper_hosts)
    async with session(zookeeper_hosts, chroot, session_seconds=10) as client:
        await client.put(own("first"))
        before = requests(server, client)
        for number in range(100):
            await client.put(own(f"i{number}"))
        # One request for each: they did not wait at the same time.
        assert requests(server, client) - before < 100 + 50
        stranger.create(f"{chroot}/svc/theirs", FOREIGN, ephemeral=True)
        await eventually(lambda: _has(client, "theirs"))


async def _has(client: ZookeeperRegistryClient, instance_id: str) -> bool:
    return instance_id in {node.instance_id for node in await client.nodes("svc")}
