"""The requests that following ZooKeeper costs, as the server counts them."""

import asyncio

from configsvc.registry.port import Node
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from tests.engines import ZooKeeper
from tests.registry.conftest import requests, session

NODES = 200
# The list and the new node, and the same for a caller. That is far below one request for each node.
FEW_REQUESTS = 20
# Reached only if the test fails.
TIMEOUT_SECONDS = 30.0


async def until_seen(client: ZookeeperRegistryClient, count: int, generations: int = 1) -> None:
    """Returns when the session has seen so many nodes, with so many different generations."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async for _ in client.events():
            nodes = await client.nodes("svc")
            if len(nodes) == count and len({node.generation for node in nodes}) == generations:
                return


async def test_new_or_changed_instance_does_not_cause_reads_of_the_others(zookeeper_hosts: str, chroot: str) -> None:
    async with (
        session(zookeeper_hosts, chroot, "writer", session_seconds=10) as writer,
        session(zookeeper_hosts, chroot, "reader", session_seconds=10) as reader,
    ):
        server = ZooKeeper(given=zookeeper_hosts)
        seen = asyncio.create_task(until_seen(reader, NODES))
        await asyncio.sleep(0)
        await asyncio.gather(*(writer.put(Node("svc", f"i{n}", "writer", 1)) for n in range(NODES)))
        await seen
        # All reads have ended when every node is cached.
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(reader._cache.cached.of("svc")) < NODES or not reader._cache.is_idle:  # noqa: ASYNC110 - kazoo tells nobody
                await asyncio.sleep(0.01)
        before = requests(server, reader)
        seen = asyncio.create_task(until_seen(reader, NODES + 1, generations=2))
        await asyncio.sleep(0)
        await writer.put(Node("svc", "new", "writer", 1))
        await writer.put(Node("svc", "i7", "writer", 2))
        await seen
        found = {node.instance_id: node.generation for node in await reader.nodes("svc")}
        assert len(found) == NODES + 1
        assert found["i7"] == 2, "the cache has ZooKeeper's state"
        assert requests(server, reader) - before < FEW_REQUESTS
