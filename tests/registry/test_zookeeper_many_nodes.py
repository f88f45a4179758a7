"""A session among thousands of nodes of another: it reads all of them, whatever fails meanwhile, and takes them over."""

import asyncio

import pytest
from kazoo.client import KazooClient

from configsvc.errors import Unavailable
from configsvc.registry.port import Node
from configsvc.registry.zookeeper.creates import GROUP_NODES
from configsvc.registry.zookeeper.session import ZookeeperSession
from tests.engines import ZooKeeper
from tests.registry.conftest import requests, session

NODES = 5 * GROUP_NODES
# A read of each node, a request for each group, and some for the lists of the services, whose watches fire meanwhile.
FEW_REQUESTS = NODES + NODES // 4
SERVICES = 16


def node(number: int, owner: str, generation: int) -> Node:
    return Node(f"s{number % SERVICES}", f"i{number:04}", owner, generation, {"service_url": f"http://i{number}:80"})


async def test_nodes_of_another_session_are_replaced_in_groups(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The watches of single nodes are not set within this test.
    monkeypatch.setattr("configsvc.registry.zookeeper.tree_cache.WATCH_PAUSE_SECONDS", 600.0)
    server = ZooKeeper(given=zookeeper_hosts)
    async with session(zookeeper_hosts, chroot, "r1", session_seconds=10) as one:
        await asyncio.gather(*(one.put(node(n, "r1", 1)) for n in range(NODES)))
        async with session(zookeeper_hosts, chroot, "r2", session_seconds=10) as two:
            before = requests(server, two)
            await asyncio.gather(*(two.put(node(n, "r2", 2)) for n in range(NODES)))
            assert requests(server, two) - before < FEW_REQUESTS
            for n in range(NODES):
                path = f"{chroot}/s{n % SERVICES}/i{n:04}"
                assert stranger.exists(path).ephemeralOwner == two._session.id


async def test_node_of_a_higher_generation_does_not_prevent_that_the_others_are_replaced(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient
) -> None:
    async with session(zookeeper_hosts, chroot, "r1") as one, session(zookeeper_hosts, chroot, "r2") as two:
        await asyncio.gather(*(one.put(node(n, "r1", 3 if n == 7 else 1)) for n in range(20)))
        done = await asyncio.gather(*(two.put(node(n, "r2", 2)) for n in range(20)), return_exceptions=True)
        assert {number for number, outcome in enumerate(done) if outcome is not None} == {7}
        owners = {n: stranger.exists(f"{chroot}/s{n % SERVICES}/i{n:04}").ephemeralOwner for n in range(20)}
        assert {n for n, owner in owners.items() if owner == one._session.id} == {7}


async def test_node_that_could_not_be_read_at_the_start_is_read_by_the_next_attempt(
    zookeeper_hosts: str, chroot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the instance would be missing until its service's list changes."""
    nodes = [node(n, "r1", 1) for n in range(3 * SERVICES)]
    async with session(zookeeper_hosts, chroot, "r1") as one:
        await asyncio.gather(*map(one.put, nodes))
        get, failed = ZookeeperSession.get, set[str]()

        async def get_at_second_attempt(self: ZookeeperSession, path: str, watch: object = None) -> object:
            if "/i" in path and path not in failed and len(failed) < 5:
                failed.add(path)
                raise Unavailable("ZooKeeper does not answer", "REGISTRY_UNAVAILABLE")
            return await get(self, path, watch)  # type: ignore[arg-type]

        monkeypatch.setattr(ZookeeperSession, "get", get_at_second_attempt)
        async with session(zookeeper_hosts, chroot, "r2") as two:
            assert len(failed) == 5
            seen = [found for number in range(SERVICES) for found in await two.nodes(f"s{number}")]
            assert sorted(seen, key=lambda found: found.instance_id) == nodes
