"""Faults of ZooKeeper, and of its other clients, do not affect the replicas that go on."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from kazoo.security import CREATOR_ALL_ACL, make_acl

from configsvc.clock import SystemClock
from configsvc.errors import Unavailable
from configsvc.registry import curator
from configsvc.registry.port import Node
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from configsvc.settings import SettingsError, load
from tests.app.registry.world import ME, World, registration
from tests.conformance.registry.conftest import expire_session
from tests.engines import ZooKeeper
from tests.registry.conftest import eventually, session
from tests.registry.test_foreign_nodes import BROKEN

pytestmark = pytest.mark.timeout(300)

GOOD = b'{"name":"svc","id":"good","address":"h","port":1}'


@pytest.fixture(scope="module")
def own_zookeeper(private_zookeeper: Callable[[], ZooKeeper]) -> ZooKeeper:
    return private_zookeeper()


def is_instance(data: bytes) -> bool:
    try:
        curator.from_json("svc", "one", data)
    except ValueError:
        return False
    return True


async def ids(client: ZookeeperRegistryClient) -> list[str]:
    return [node.instance_id for node in await client.nodes("svc")]


async def test_unreadable_nodes_are_left_out_counted_and_logged_once(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    # The others are valid instances of which only a member is left out.
    broken = [data for data in BROKEN if not is_instance(data)]
    assert len(broken) > 10

    def spoil() -> None:
        stranger.create(f"{chroot}/svc/good", GOOD, makepath=True, ephemeral=True)
        for number, data in enumerate(broken):
            stranger.create(f"{chroot}/svc/broken{number:02}", data)
        stranger.create(f"{chroot}/svc/empty/nested", GOOD, makepath=True)
        for name in ("x" * 300, "line\u2028end"):
            stranger.create(f"{chroot}/svc/{name}", GOOD)
        stranger.create(f"{chroot}/my service/one", GOOD, makepath=True)

    bad = len(broken) + 1 + 2 + 1
    async with session(zookeeper_hosts, chroot, "before") as before:
        await asyncio.to_thread(spoil)
        async with session(zookeeper_hosts, chroot, "after") as after:
            for client in (before, after):
                await eventually(lambda c=client: _is(ids(c), ["good"]))  # type: ignore[misc]
                assert list(await client.services()) == ["svc"]
                assert client.notes.startswith(f"{bad} nodes can't be read, and are left out: "), client.notes
                assert len(client.notes) < 1_000
            logged = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
            assert len(logged) == 2 * bad, "once for each node, at each replica"
            assert len(set(logged)) == bad
            await expire_session(zookeeper_hosts, after)
            await eventually(lambda: _is(ids(after), ["good"]))
            stranger.set(f"{chroot}/svc/broken00", GOOD)
            stranger.delete(f"{chroot}/my service", recursive=True)
            await eventually(lambda: _is(ids(after), ["broken00", "good"]))
            await eventually(lambda: _notes(after, f"{bad - 2} nodes"))
            assert len([r for r in caplog.records if "is left out" in r.getMessage()]) == 2 * bad, "not logged again"


async def _is(found: Awaitable[Any], wanted: Any) -> bool:
    return bool(await found == wanted)


async def _notes(client: ZookeeperRegistryClient, start: str) -> bool:
    return client.notes.startswith(start)


async def test_replica_works_among_unreadable_nodes(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, world: World
) -> None:
    stranger.create(f"{chroot}/svc/broken", BROKEN[0], makepath=True)
    async with session(zookeeper_hosts, chroot, "a") as client, world.replica("a", client=client) as replica:
        assert not (await replica.discovery.discover("svc")).stale
        stranger.create(f"{chroot}/svc/worse", BROKEN[-1])
        stranger.create(f"{chroot}/svc/good", GOOD, ephemeral=True)
        await eventually(lambda: _discovers(replica, ["good"], stale=False))
        await replica.directory.register(registration("one"), ME)
        await eventually(lambda: _discovers(replica, ["good", "one"], stale=False))


async def _discovers(replica: Any, wanted: list[str], *, stale: bool) -> bool:
    listing = await replica.discovery.discover("svc")
    return listing.stale is stale and [i.instance_id for i in listing.instances] == wanted


async def test_forbidden_service_is_left_out(zookeeper_hosts: str, chroot: str, stranger: KazooClient) -> None:
    stranger.create(f"{chroot}/svc/good", GOOD, makepath=True, ephemeral=True)
    stranger.add_auth("digest", "other:secret")
    stranger.create(f"{chroot}/closed", b"", acl=CREATOR_ALL_ACL)
    stranger.create(f"{chroot}/svc/closed", GOOD, acl=CREATOR_ALL_ACL, ephemeral=True)
    async with session(zookeeper_hosts, chroot) as client:
        assert await ids(client) == ["good"]
        assert list(await client.services()) == ["svc"]
        assert client.notes.startswith("2 nodes can't be read")


async def test_replica_started_without_zookeeper_is_stale_and_ends_no_lease_until_it_has_read_it(
    own_zookeeper: ZooKeeper, world: World
) -> None:
    base = f"/{secrets.token_hex(4)}"
    own_zookeeper.kill()
    async with (
        session(own_zookeeper.address, base, "a", connection_seconds=0.1) as client,
        world.replica("a", client=client) as replica,
    ):
        await replica.directory.register(registration("one"), ME)
        assert await _discovers(replica, ["one"], stale=True)
        world.clock.forward(10_000)
        # Time for many sweeps.
        for _ in range(200):
            await SystemClock().sleep(0.001)
        assert await _discovers(replica, ["one"], stale=True)
        own_zookeeper.start()
        await eventually(lambda: _discovers(replica, ["one"], stale=False))
        await eventually(lambda: _is(ids(client), ["one"]))


async def test_client_joins_a_zookeeper_that_lost_its_data(own_zookeeper: ZooKeeper, world: World) -> None:
    base = f"/{secrets.token_hex(4)}"
    async with (
        session(own_zookeeper.address, base, "a", session_seconds=2) as client,
        world.replica("a", client=client) as replica,
    ):
        # So that the client has seen later changes than the empty server will have for a while.
        for number in range(30):
            await replica.directory.register(registration("one", weight=number + 1), ME)
        await eventually(lambda: _is(ids(client), ["one"]))
        own_zookeeper.kill()
        own_zookeeper.wipe()
        own_zookeeper.start()
        # This asks the server, so it is true only on the new connection.
        await eventually(lambda: _is(client.replicas(), {"a"}))
        await eventually(lambda: _is(ids(client), ["one"]))
        await eventually(lambda: _discovers(replica, ["one"], stale=False))


async def test_nodes_that_others_removed_are_created_again(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, world: World
) -> None:
    async with session(zookeeper_hosts, chroot, "a") as client, world.replica("a", client=client) as replica:
        await replica.directory.register(registration("one"), ME)
        await eventually(lambda: _is(ids(client), ["one"]))
        old = stranger.exists(f"{chroot}/svc/one").czxid
        stranger.delete(chroot, recursive=True)
        stranger.delete(f"{chroot}-replicas", recursive=True)

        async def again() -> bool:
            stat = stranger.exists(f"{chroot}/svc/one")
            return stat is not None and stat.czxid != old and await client.replicas() == {"a"}

        await eventually(again)
        stranger.create(f"{chroot}/svc/good", GOOD, ephemeral=True)
        await eventually(lambda: _discovers(replica, ["good", "one"], stale=False))


@pytest.mark.parametrize("path", ["/{}", "/{}/b/c", "/{}/"])
async def test_chroot_of_the_hosts_is_created(path: str, zookeeper_hosts: str, stranger: KazooClient) -> None:
    given = path.format(f"chroot-{secrets.token_hex(4)}")
    async with session(f"{zookeeper_hosts}{given}", "/services") as client:
        await client.put(Node("svc", "one", "r1", 1, {"service_url": "http://one:80"}))
        made = given.rstrip("/")
        assert stranger.get_children(f"{made}/services/svc") == ["one"]
        assert stranger.get_children(f"{made}/services-replicas") == ["r1"]


async def test_forbidden_chroot_is_named_in_the_error(zookeeper_hosts: str, stranger: KazooClient) -> None:
    closed = f"/closed-{secrets.token_hex(4)}"
    stranger.create(closed, b"", acl=[make_acl("world", "anyone", read=True)])
    async with session(f"{zookeeper_hosts}{closed}/inner", "/services", connection_seconds=1) as client:

        async def is_named() -> bool:
            try:
                await client.ping()
            except Unavailable as error:
                return "ZOOKEEPER_HOSTS" in str(error) and f"{closed}/inner/services" in str(error)
            return False

        await eventually(is_named)


@pytest.mark.parametrize("hosts", ["h:1/a,g:2/b", "h:1/a,g:2", "h:1,", "h", "h:x", "h:1//a", "h:1/a b"])
def test_invalid_hosts_are_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="ZOOKEEPER_HOSTS"):
        load(zookeeper_hosts=hosts)


@pytest.mark.parametrize("hosts", ["h:1", "h:1,g:2", "h:1,g:2/a/b", "h:1/", "[::1]:2181/x"])
def test_valid_hosts_are_accepted(hosts: str) -> None:
    assert load(zookeeper_hosts=hosts).zookeeper_hosts == hosts


AUTH: dict[str, Any] = {"auth": ("digest", "u:p")}
NODE = Node("svc", "one", "r1", 1, {"service_url": "http://one:80"})


async def test_open_paths_are_restricted_but_not_those_of_others(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient
) -> None:
    async with session(zookeeper_hosts, chroot, "early") as early:
        await early.put(NODE)
    stranger.create(f"{chroot}/jvm/one", GOOD, makepath=True, ephemeral=True)
    async with session(zookeeper_hosts, chroot, **AUTH) as client:
        await client.put(NODE)
        for path in (chroot, f"{chroot}-replicas", f"{chroot}/svc"):
            with pytest.raises(NoAuthError):
                stranger.create(f"{path}/mine", b"")
            assert stranger.get_children(path), "others may read it"
        # The other program can still use its path: no node of this service is there.
        stranger.create(f"{chroot}/jvm/two", GOOD, ephemeral=True)
        assert client.notes == ""


async def test_open_path_that_can_not_be_restricted_is_reported_with_a_remedy(
    zookeeper_hosts: str, chroot: str, stranger: KazooClient, caplog: pytest.LogCaptureFixture
) -> None:
    everything_else = [make_acl("world", "anyone", read=True, write=True, create=True, delete=True)]
    stranger.create(chroot, b"", acl=everything_else)
    async with session(zookeeper_hosts, chroot, **AUTH) as client:
        await client.put(NODE)
        assert f"{chroot} is open to everyone ('rwcd')" in client.notes
        assert f"setAcl {chroot} digest:USER:HASH:cdrwa,world:anyone:r" in client.notes
        assert "setAcl" in caplog.text
