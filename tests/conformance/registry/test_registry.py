"""The contract of `registry/port.py`, for every backend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from configsvc.errors import FailedPrecondition
from configsvc.registry.port import (
    Node,
    NodesChanged,
    RegistryEvent,
    ReplicasChanged,
    ServiceRegistryClient,
    SessionChanged,
    SessionState,
)
from tests.conformance.registry.conftest import Backend

# Reached only if the test fails.
TIMEOUT_SECONDS = 30.0


def node(
    instance_id: str = "one", owner: str = "r1", generation: int = 1, service: str = "svc", **more: object
) -> Node:
    return Node(service, instance_id, owner, generation, {"service_url": f"http://{instance_id}:80", **more})


class EventLog:
    """Collects the events of a session from now on."""

    def __init__(self, client: ServiceRegistryClient) -> None:
        self.events: list[RegistryEvent] = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._listen(client.events()))

    async def until(self, *expected: RegistryEvent) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not set(expected) <= set(self.events):
                self._more.clear()
                await self._more.wait()

    async def end(self) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._task

    async def _listen(self, events: AsyncIterator[RegistryEvent]) -> None:
        async for event in events:
            self.events.append(event)
            self._more.set()


async def event_log(client: ServiceRegistryClient) -> EventLog:
    log = EventLog(client)
    # Let the task take its first step.
    await asyncio.sleep(0)
    return log


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the registry has no event for this
            await asyncio.sleep(0.01)


async def shows(client: ServiceRegistryClient, *nodes: Node, service: str = "svc") -> None:
    """Returns when the session has seen these nodes, and no others."""

    async def condition() -> bool:
        return await client.nodes(service) == list(nodes)

    await eventually(condition)


async def test_node_is_read_by_every_session_as_it_was_put(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    put = node(metadata={"a": "ü"}, weight=5)
    await one.put(put)
    assert await one.nodes("svc") == [put], "its own session sees it at once"
    await shows(two, put)


async def test_nodes_are_ordered_by_id_and_services_by_name(backend: Backend) -> None:
    client = await backend.open("r1")
    for service, name in (("b", "2"), ("b", "1"), ("a", "3"), ("B", "1")):
        await client.put(node(name, service=service))
    assert [found.instance_id for found in await client.nodes("b")] == ["1", "2"]
    assert list(await client.services()) == ["B", "a", "b"]
    assert list(await client.nodes("missing")) == []


async def test_removed_node_and_service_without_nodes_are_gone(backend: Backend) -> None:
    client = await backend.open("r1")
    await client.put(node("one"))
    await client.put(node("two"))
    await client.remove("svc", "one")
    assert [found.instance_id for found in await client.nodes("svc")] == ["two"]
    await client.remove("svc", "two")
    assert list(await client.nodes("svc")) == []
    assert list(await client.services()) == []


async def test_removing_a_missing_or_foreign_node_does_nothing(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    await one.put(node())
    await two.remove("svc", "one")
    await two.remove("svc", "never")
    await two.remove("never", "never")
    assert len(await one.nodes("svc")) == 1


async def test_second_put_replaces_the_node(backend: Backend) -> None:
    client = await backend.open("r1")
    await client.put(node(weight=1))
    await client.put(node(weight=2))
    assert await client.nodes("svc") == [node(weight=2)]


async def test_higher_generation_takes_over_without_a_gap(backend: Backend) -> None:
    one, two, reader = await backend.open("r1"), await backend.open("r2"), await backend.open("r3")
    await one.put(node(owner="r1", generation=1))
    await shows(reader, node(owner="r1", generation=1))
    seen: list[int] = []
    done = asyncio.Event()

    async def read() -> None:
        while not done.is_set():
            seen.append(len(await reader.nodes("svc")))
            await asyncio.sleep(0)

    reading = asyncio.create_task(read())
    for generation in range(2, 22):
        taker, owner = (two, "r2") if generation % 2 == 0 else (one, "r1")
        await taker.put(node(owner=owner, generation=generation))
        # The local registry never yields to the event loop on its own.
        await asyncio.sleep(0)
    await shows(reader, node(owner="r1", generation=21))
    done.set()
    await reading
    assert set(seen) == {1}


async def test_lower_generation_is_refused(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    await two.put(node(owner="r2", generation=5))
    with pytest.raises(FailedPrecondition) as refused:
        await one.put(node(owner="r1", generation=4))
    assert refused.value.reason == "NOT_OWNER"
    await shows(one, node(owner="r2", generation=5))


async def test_higher_generation_wins_concurrent_puts(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    for _ in range(10):
        await asyncio.gather(
            one.put(node(owner="r1", generation=7)),
            two.put(node(owner="r2", generation=8)),
            return_exceptions=True,
        )
        await shows(one, node(owner="r2", generation=8))
        await two.remove("svc", "one")
        await shows(one)


async def test_nodes_of_an_expired_session_vanish_with_events(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    await one.put(node("one", service="a"))
    await two.put(node("two", service="a"))
    # A node that came and went unseen is no event.
    await eventually(lambda: _shows(two, "a", "one", "two"))
    log = await event_log(two)
    await backend.expire(one)
    await log.until(NodesChanged("a"), ReplicasChanged())
    await eventually(lambda: _shows(two, "a", "two"))


async def _shows(client: ServiceRegistryClient, service: str, *instance_ids: str) -> bool:
    return [found.instance_id for found in await client.nodes(service)] == list(instance_ids)


async def test_expired_session_sends_its_state_and_recovers(backend: Backend) -> None:
    client = await backend.open("r1")
    await client.put(node())
    log = await event_log(client)
    await backend.expire(client)
    await log.until(SessionChanged(SessionState.LOST), SessionChanged(SessionState.CONNECTED))
    assert list(await client.nodes("svc")) == []
    assert await client.replicas() == {"r1"}
    await client.put(node())
    assert await client.nodes("svc") == [node()]


async def test_replicas_are_the_open_sessions(backend: Backend) -> None:
    one = await backend.open("r1")
    assert await one.replicas() == {"r1"}
    log = await event_log(one)
    two = await backend.open("r2")
    await log.until(ReplicasChanged())
    assert await one.replicas() == {"r1", "r2"}
    await two.__aexit__(None, None, None)
    await eventually(lambda: _alone(one))


async def _alone(client: ServiceRegistryClient) -> bool:
    return await client.replicas() == {"r1"}


async def test_put_change_and_removal_send_events(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    log = await event_log(two)
    for act in (one.put(node(weight=1)), one.put(node(weight=2)), one.remove("svc", "one")):
        log.events.clear()
        await act
        await log.until(NodesChanged("svc"))


async def test_slow_subscriber_gets_merged_events_without_loss(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    events = two.events()
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    for number in range(20):
        await one.put(node(service=f"s{number % 4}", weight=number))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        received = {await first}
        while {f"s{number}" for number in range(4)} - {e.service for e in received if isinstance(e, NodesChanged)}:
            received.add(await anext(events))


async def test_events_start_at_the_call_and_not_at_the_first_step(backend: Backend) -> None:
    """A subscriber that then reads the state misses nothing."""
    one, two = await backend.open("r1"), await backend.open("r2")
    events = two.events()
    await one.put(node())
    await eventually(lambda: _has_one(two))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while await anext(events) != NodesChanged("svc"):
            pass


async def _has_one(client: ServiceRegistryClient) -> bool:
    return len(await client.nodes("svc")) == 1


async def test_close_ends_the_events_and_removes_the_nodes(backend: Backend) -> None:
    one, two = await backend.open("r1"), await backend.open("r2")
    await one.put(node())
    log = await event_log(one)
    await one.__aexit__(None, None, None)
    await log.end()
    await eventually(lambda: _none(two))


async def _none(client: ServiceRegistryClient) -> bool:
    return not await client.nodes("svc")


async def test_ping_returns_if_the_backend_answers(backend: Backend) -> None:
    await (await backend.open("r1")).ping()
