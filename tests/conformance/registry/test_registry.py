"""What `registry/port.py` promises, whichever backend keeps the promise."""

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
from tests.conformance.registry.conftest import Bench

# Reached only where the test fails.
PATIENCE_SECONDS = 30.0


def node(
    instance_id: str = "one", owner: str = "r1", generation: int = 1, service: str = "svc", **more: object
) -> Node:
    return Node(service, instance_id, owner, generation, {"service_url": f"http://{instance_id}:80", **more})


class Ears:
    """Everything that a session is told, from now on."""

    def __init__(self, client: ServiceRegistryClient) -> None:
        self.heard: list[RegistryEvent] = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._listen(client.events()))

    async def until(self, *wanted: RegistryEvent) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not set(wanted) <= set(self.heard):
                self._more.clear()
                await self._more.wait()

    async def end(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._task

    async def _listen(self, events: AsyncIterator[RegistryEvent]) -> None:
        async for event in events:
            self.heard.append(event)
            self._more.set()


async def ears_of(client: ServiceRegistryClient) -> Ears:
    ears = Ears(client)
    # Listening begins with the iterator's first step, which is the task's.
    await asyncio.sleep(0)
    return ears


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the registry is asked, and tells nobody
            await asyncio.sleep(0.01)


async def test_a_node_shows_to_everyone_as_it_was_put(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    put = node(metadata={"a": "ü"}, weight=5)
    await one.put(put)
    assert await one.nodes("svc") == [put]
    assert await two.nodes("svc") == [put]


async def test_nodes_are_in_the_order_of_id_and_services_in_that_of_name(bench: Bench) -> None:
    client = await bench.open("r1")
    for service, name in (("b", "2"), ("b", "1"), ("a", "3"), ("B", "1")):
        await client.put(node(name, service=service))
    assert [found.instance_id for found in await client.nodes("b")] == ["1", "2"]
    assert list(await client.services()) == ["B", "a", "b"]
    assert list(await client.nodes("missing")) == []


async def test_a_removed_node_is_gone_and_so_is_a_service_without_nodes(bench: Bench) -> None:
    client = await bench.open("r1")
    await client.put(node("one"))
    await client.put(node("two"))
    await client.remove("svc", "one")
    assert [found.instance_id for found in await client.nodes("svc")] == ["two"]
    await client.remove("svc", "two")
    assert list(await client.nodes("svc")) == []
    assert list(await client.services()) == []


async def test_removing_what_is_not_there_or_not_own_does_nothing(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    await one.put(node())
    await two.remove("svc", "one")
    await two.remove("svc", "never")
    await two.remove("never", "never")
    assert len(await one.nodes("svc")) == 1


async def test_put_again_replaces(bench: Bench) -> None:
    client = await bench.open("r1")
    await client.put(node(weight=1))
    await client.put(node(weight=2))
    assert await client.nodes("svc") == [node(weight=2)]


async def test_a_higher_generation_takes_over_without_a_gap(bench: Bench) -> None:
    one, two, reader = await bench.open("r1"), await bench.open("r2"), await bench.open("r3")
    await one.put(node(owner="r1", generation=1))
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
        # The local registry never waits for anything by itself.
        await asyncio.sleep(0)
    done.set()
    await reading
    assert set(seen) == {1}
    assert (await reader.nodes("svc"))[0].generation == 21


async def test_a_lower_generation_is_refused_and_changes_nothing(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    await two.put(node(owner="r2", generation=5))
    with pytest.raises(FailedPrecondition) as refused:
        await one.put(node(owner="r1", generation=4))
    assert refused.value.reason == "NOT_OWNER"
    assert await one.nodes("svc") == [node(owner="r2", generation=5)]


async def test_of_two_that_claim_at_once_the_higher_generation_stays(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    for _ in range(10):
        await asyncio.gather(
            one.put(node(owner="r1", generation=7)),
            two.put(node(owner="r2", generation=8)),
            return_exceptions=True,
        )
        assert await one.nodes("svc") == [node(owner="r2", generation=8)]
        await two.remove("svc", "one")


async def test_the_nodes_of_a_session_go_with_it_and_the_others_are_told(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    await one.put(node("one", service="a"))
    await two.put(node("two", service="a"))
    ears = await ears_of(two)
    await bench.expire(one)
    await ears.until(NodesChanged("a"), ReplicasChanged())
    await eventually(lambda: _only(two, "a", "two"))


async def _only(client: ServiceRegistryClient, service: str, instance_id: str) -> bool:
    return [found.instance_id for found in await client.nodes(service)] == [instance_id]


async def test_an_expired_session_says_so_and_works_again(bench: Bench) -> None:
    client = await bench.open("r1")
    await client.put(node())
    ears = await ears_of(client)
    await bench.expire(client)
    await ears.until(SessionChanged(SessionState.LOST), SessionChanged(SessionState.CONNECTED))
    assert list(await client.nodes("svc")) == []
    assert await client.replicas() == {"r1"}
    await client.put(node())
    assert await client.nodes("svc") == [node()]


async def test_replicas_are_those_that_are_open(bench: Bench) -> None:
    one = await bench.open("r1")
    assert await one.replicas() == {"r1"}
    ears = await ears_of(one)
    two = await bench.open("r2")
    await ears.until(ReplicasChanged())
    assert await one.replicas() == {"r1", "r2"}
    await two.__aexit__(None, None, None)
    await eventually(lambda: _alone(one))


async def _alone(client: ServiceRegistryClient) -> bool:
    return await client.replicas() == {"r1"}


async def test_everyone_is_told_of_a_put_a_change_and_a_removal(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    ears = await ears_of(two)
    for act in (one.put(node(weight=1)), one.put(node(weight=2)), one.remove("svc", "one")):
        ears.heard.clear()
        await act
        await ears.until(NodesChanged("svc"))


async def test_what_a_slow_listener_missed_is_merged_and_not_lost(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    events = two.events()
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    for number in range(20):
        await one.put(node(service=f"s{number % 4}", weight=number))
    async with asyncio.timeout(PATIENCE_SECONDS):
        heard = {await first}
        while {f"s{number}" for number in range(4)} - {e.service for e in heard if isinstance(e, NodesChanged)}:
            heard.add(await anext(events))


async def test_what_happens_before_the_first_step_of_the_events_is_told(bench: Bench) -> None:
    """Whoever listens and then reads the state misses nothing."""
    one, two = await bench.open("r1"), await bench.open("r2")
    events = two.events()
    await one.put(node())
    await eventually(lambda: _has_one(two))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await anext(events) != NodesChanged("svc"):
            pass


async def _has_one(client: ServiceRegistryClient) -> bool:
    return len(await client.nodes("svc")) == 1


async def test_closing_ends_the_events_and_takes_the_nodes_away(bench: Bench) -> None:
    one, two = await bench.open("r1"), await bench.open("r2")
    await one.put(node())
    ears = await ears_of(one)
    await one.__aexit__(None, None, None)
    await ears.end()
    await eventually(lambda: _none(two))


async def _none(client: ServiceRegistryClient) -> bool:
    return not await client.nodes("svc")


async def test_ping_returns_where_the_backend_answers(bench: Bench) -> None:
    await (await bench.open("r1")).ping()
