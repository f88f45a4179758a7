"""What following ZooKeeper costs, told by the server's own count of requests."""

import asyncio
import re

from configsvc.registry.port import Node
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from tests.engines import ZooKeeper
from tests.registry.conftest import session

NODES = 200
# The list, the new node, and the same again for whoever asks; far below one for each node.
FEW_REQUESTS = 20
# Reached only where the test fails.
PATIENCE_SECONDS = 30.0


def requests(server: ZooKeeper, client: ZookeeperRegistryClient) -> int:
    """How many this session has sent."""
    session = f"sid={client._session._client.client_id[0]:#x},"
    (line,) = [line for line in server.ask("cons").splitlines() if session in line]
    received = re.search(r"recved=(\d+)", line)
    assert received is not None
    return int(received[1])


async def until_seen(client: ZookeeperRegistryClient, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for _ in client.events():
            if len(await client.nodes("svc")) == count:
                return


async def test_an_instance_that_comes_or_changes_costs_no_reading_of_the_others(
    zookeeper_hosts: str, chroot: str
) -> None:
    async with (
        session(zookeeper_hosts, chroot, "writer", session_seconds=10) as writer,
        session(zookeeper_hosts, chroot, "reader", session_seconds=10) as reader,
    ):
        server = ZooKeeper(given=zookeeper_hosts)
        seen = asyncio.create_task(until_seen(reader, NODES))
        await asyncio.sleep(0)
        await asyncio.gather(*(writer.put(Node("svc", f"i{n}", "writer", 1)) for n in range(NODES)))
        await seen
        # What it has been told of and still reads is over when all of it is held.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(reader._cache.nodes("svc")) < NODES or not reader._cache.is_idle:  # noqa: ASYNC110 - kazoo tells nobody
                await asyncio.sleep(0.01)
        before = requests(server, reader)
        seen = asyncio.create_task(until_seen(reader, NODES + 1))
        await asyncio.sleep(0)
        await writer.put(Node("svc", "new", "writer", 1))
        await writer.put(Node("svc", "i7", "writer", 2))
        await seen
        found = {node.instance_id: node.generation for node in await reader.nodes("svc")}
        assert len(found) == NODES + 1
        assert found["i7"] == 2, "what is held is what ZooKeeper has"
        assert requests(server, reader) - before < FEW_REQUESTS
