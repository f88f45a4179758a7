"""The registry shows an instance as its record is, whatever happens to its node or to the session."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from configsvc.app.registry.ownership import projection
from configsvc.clock import SystemClock
from configsvc.errors import Unavailable
from configsvc.registry.port import Node, NodesChanged
from tests.app.registry.world import ME, World, registration

KEY = ("svc", "one")
# Reached only if the test fails.
TIMEOUT_SECONDS = 10.0


def node(world: World) -> Node | None:
    shown, _ = world.registry.nodes.get(KEY, (None, None))
    return shown


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not condition():
            await SystemClock().sleep(0.001)


async def test_each_change_of_a_record_is_shown_when_the_write_returns(world: World) -> None:
    async with world.replica("a") as replica:
        for weight in (1, 2, 3):
            await replica.directory.register(registration(weight=weight), ME)
            shown = node(world)
            assert shown is not None
            assert shown.payload["weight"] == weight


async def test_node_that_others_removed_is_created_again(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        for _ in range(2):
            del world.registry.nodes[KEY]
            world.registry.publish(NodesChanged("svc"))
            await until(lambda: node(world) is not None)


async def test_outdated_own_node_is_corrected(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(weight=7), ME)
        shown = node(world)
        await world.sessions["a"].put(Node("svc", "one", "a", 1, {"weight": 1}))
        await until(lambda: node(world) == shown)


async def test_nodes_are_created_again_in_a_new_session(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        world.sessions["a"].expire()
        assert node(world) is None
        world.sessions["a"].resume()
        await until(lambda: node(world) is not None)


async def test_node_of_an_instance_deregistered_during_an_outage_is_removed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        world.sessions["a"].suspend()
        await replica.directory.deregister("svc", "one", ME)
        await until(lambda: "does not show instance 'one'" in caplog.text)
        assert node(world) is not None
        world.sessions["a"].resume()
        await until(lambda: node(world) is None)


async def test_failed_projection_is_retried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's state does not change, so only the retry repairs the node."""

    async def fail(_: Node) -> None:
        raise Unavailable("the registry is unreachable", "REGISTRY_UNAVAILABLE")

    async with world.replica("a") as replica:
        with monkeypatch.context() as patched:
            patched.setattr(world.sessions["a"], "put", fail)
            await replica.directory.register(registration(), ME)
            assert node(world) is None
        await until(lambda: node(world) is not None)


async def test_caller_does_not_wait_behind_the_instances_of_a_new_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "CONCURRENT_PROJECTIONS", 2)
    most, putting, may_go_on = 0, 0, asyncio.Event()

    async def slow_put(put: Callable[[Node], Awaitable[None]], node: Node) -> None:
        nonlocal most, putting
        if node.instance_id != "urgent":
            putting += 1
            most = max(most, putting)
            await may_go_on.wait()
            putting -= 1
        await put(node)

    async with world.replica("a") as replica:
        names = [f"i{number}" for number in range(20)]
        for name in names:
            await replica.directory.register(registration(name), ME)
        session = world.sessions["a"]
        monkeypatch.setattr(session, "put", partial(slow_put, session.put))
        session.expire()
        session.resume()
        await until(lambda: putting == 2)
        await replica.directory.register(registration("urgent"), ME)
        assert ("svc", "urgent") in world.registry.nodes
        assert putting == 2
        may_go_on.set()
        await until(lambda: all(("svc", name) in world.registry.nodes for name in names))
        assert most == 2
