"""The rights on the nodes that this service creates in ZooKeeper, if it has a credential."""

from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError

from configsvc.errors import Unavailable
from configsvc.registry.port import Node
from tests.registry.conftest import eventually, session, shows

AUTH: dict[str, Any] = {"auth": ("digest", "u:p"), "connection_seconds": 30}
NODE = Node("svc", "one", "r1", 1, {"service_url": "http://one:80"})


async def test_others_may_only_read_by_default(zookeeper_hosts: str, chroot: str, stranger: KazooClient) -> None:
    async with session(zookeeper_hosts, chroot, **AUTH) as client:
        await client.put(NODE)
        path = f"{chroot}/svc/one"
        assert b"http" in stranger.get(path)[0]
        with pytest.raises(NoAuthError):
            stranger.set(path, b"mine")
        with pytest.raises(NoAuthError):
            stranger.delete(path)
        with pytest.raises(NoAuthError):
            stranger.create(f"{chroot}/svc/two", b"", ephemeral=True)
        assert await client.nodes("svc") == [NODE]


async def test_replica_with_the_credential_takes_over(zookeeper_hosts: str, chroot: str) -> None:
    taken = Node("svc", "one", "r2", 2, NODE.payload)
    async with session(zookeeper_hosts, chroot, **AUTH) as one, session(zookeeper_hosts, chroot, "r2", **AUTH) as two:
        await one.put(NODE)
        await two.put(taken)
        await eventually(lambda: shows(one, taken))
        await two.remove("svc", "one")
        await eventually(lambda: shows(one))


async def test_others_with_the_create_right_may_add_nodes(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient
) -> None:
    async with session(zookeeper_hosts, chroot, **AUTH, others="cr") as client:
        await client.put(NODE)
        stranger.create(f"{chroot}/svc/two", b'{"name":"svc","id":"two","address":"h","port":1}', ephemeral=True)
        theirs = Node("svc", "two", "", 0, {"service_url": "http://h:1", "metadata": {}, "status": "HEALTHY"})
        await eventually(lambda: shows(client, NODE, theirs))


async def test_others_without_rights_may_not_read(zookeeper_hosts: str, chroot: str, stranger: KazooClient) -> None:
    async with session(zookeeper_hosts, chroot, **AUTH, others="") as client:
        await client.put(NODE)
        with pytest.raises(NoAuthError):
            stranger.get(f"{chroot}/svc/one")


async def test_wrong_credential_is_named_in_the_error(zookeeper_hosts: str, chroot: str) -> None:
    async with session(zookeeper_hosts, chroot, **AUTH) as client:
        await client.put(NODE)
        wrong = session(zookeeper_hosts, chroot, "r2", auth=("digest", "u:wrong"), connection_seconds=1)
        async with wrong:
            with pytest.raises(Unavailable, match="ZOOKEEPER_AUTH"):
                await wrong.ping()
