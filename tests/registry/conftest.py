"""What the tests of the ZooKeeper adapter share: sessions, a client that is not this service, and a world of replicas."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient

from configsvc.clock import SystemClock
from configsvc.errors import Unavailable
from configsvc.registry.port import Node
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from tests.app.registry.conftest import world as world
from tests.engines import ZooKeeper

# Reached only if the test fails.
TIMEOUT_SECONDS = 120.0


@pytest.fixture
def stranger(zookeeper_hosts: str) -> Iterator[KazooClient]:
    """A ZooKeeper client of another program, without a credential."""
    client = KazooClient(zookeeper_hosts)
    client.start(60)
    yield client
    client.stop()
    client.close()


def session(hosts: str, base: str, replica_id: str = "r1", **options: Any) -> ZookeeperRegistryClient:
    defaults: dict[str, Any] = {"connection_seconds": 60, "session_seconds": 4}
    return ZookeeperRegistryClient(hosts, base, replica_id, **{**defaults, **options})


def requests(server: ZooKeeper, client: ZookeeperRegistryClient) -> int:
    """The number of requests that this session has sent."""
    session = f"sid={client._session._client.client_id[0]:#x},"
    (line,) = [line for line in server.ask("cons").splitlines() if session in line]
    received = re.search(r"recved=(\d+)", line)
    assert received is not None
    return int(received[1])


async def shows(client: ZookeeperRegistryClient, *nodes: Node) -> bool:
    """Whether these are the nodes of the service `svc`, as the session has seen them."""
    return await client.nodes("svc") == list(nodes)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when the condition holds. It counts as false while the registry is unavailable."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            try:
                if await condition():
                    return
            except Unavailable:
                pass
            await SystemClock().sleep(0.02)
