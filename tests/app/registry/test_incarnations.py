"""The state of an instance ends with its incarnation: streams, checks, status; and generations go on."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from configsvc.clock import SystemClock
from configsvc.domain.instances import HEALTHY, UNHEALTHY, Incarnation, instance_ref
from configsvc.domain.records import Action, Put, Record, View
from configsvc.domain.registrations import Registration, register, updated, with_defaults
from configsvc.errors import NotFound
from configsvc.probes.port import ProbeFailedError
from configsvc.registry.local import LocalRegistryClient
from configsvc.registry.port import Node
from tests.app.registry.world import ME, World, gone, registration

CHECKED: dict[str, Any] = {"health_check_url": "http://one:1/health", "lease_ttl_seconds": 3600}
AT = datetime(2025, 1, 1, tzinfo=UTC)


class HeldProbe:
    """A probe that answers when the test says so."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.answers: asyncio.Queue[bool] = asyncio.Queue()

    async def check(self, url: str) -> None:
        self.started.set()
        if not await self.answers.get():
            raise ProbeFailedError("switched off")


async def status(world: World, name: str = "one") -> str:
    """The status in the store."""
    view = await world.storage.get([instance_ref("svc", name)])
    record = view.get(instance_ref("svc", name))
    return str(record.body["status"]) if record else ""


async def test_end_of_an_old_stream_does_not_affect_the_next_incarnation(world: World) -> None:
    async with world.replica("a") as replica:
        first = (await replica.directory.register(registration(), ME)).value
        async with replica.keep_alive.open("svc", "one") as old:
            await replica.directory.deregister("svc", "one", ME)
            second = (await replica.directory.register(registration(), ME)).value
            assert second.incarnation > first.incarnation
            with pytest.raises(NotFound):
                await old.renew()
        # A write at the stream's end would come before this one.
        await replica.directory.register(registration("two"), ME)
        assert await status(world) == HEALTHY


async def test_stream_of_an_earlier_incarnation_does_not_keep_the_next_one_healthy(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        async with replica.keep_alive.open("svc", "one"):
            await replica.directory.deregister("svc", "one", ME)
            await replica.directory.register(registration(), ME)
            async with replica.keep_alive.open("svc", "one"):
                pass
            while await status(world) != "SUSPECT":
                await SystemClock().sleep(0.001)


async def test_failures_in_a_row_are_counted_for_each_incarnation(world: World) -> None:
    async with world.replica("a") as replica:
        world.probe.is_healthy = False
        for _ in range(4):
            await replica.directory.register(registration(**CHECKED), ME)
            for _ in range(2):
                await replica.service_check.check("svc")
            assert await status(world) == HEALTHY, "two of three"
            await replica.directory.deregister("svc", "one", ME)


async def test_late_result_does_not_affect_the_next_incarnation(world: World) -> None:
    held = HeldProbe()
    world.probe = held  # type: ignore[assignment]
    async with world.replica("a") as replica:
        await replica.directory.register(registration(**CHECKED), ME)
        for _ in range(2):
            held.answers.put_nowait(False)
            await replica.service_check.check("svc")
        held.started.clear()
        late = asyncio.create_task(replica.service_check.check("svc"))
        await held.started.wait()
        await replica.directory.deregister("svc", "one", ME)
        await replica.directory.register(registration(**CHECKED), ME)
        held.answers.put_nowait(False)
        await late
        assert await status(world) == HEALTHY


async def test_late_result_does_not_affect_another_url(world: World) -> None:
    held = HeldProbe()
    world.probe = held  # type: ignore[assignment]
    async with world.replica("a") as replica:
        await replica.directory.register(registration(**CHECKED), ME)
        for _ in range(2):
            held.answers.put_nowait(False)
            await replica.service_check.check("svc")
        held.started.clear()
        late = asyncio.create_task(replica.service_check.check("svc"))
        await held.started.wait()
        await replica.directory.register(registration(**{**CHECKED, "health_check_url": "http://one:2/health"}), ME)
        held.answers.put_nowait(False)
        await late
        assert await status(world) == HEALTHY


@pytest.mark.parametrize("change", [{}, {"weight": 7}, {"health_check_url": "http://one:2/health"}])
async def test_unhealthy_instance_stays_unhealthy_when_it_registers_again(world: World, change: dict[str, Any]) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(**CHECKED), ME)
        world.probe.is_healthy = False
        for _ in range(3):
            await replica.service_check.check("svc")
        assert await status(world) == UNHEALTHY
        head = (await world.storage.state()).head
        for _ in range(5):
            again = (await replica.directory.register(registration(**{**CHECKED, **change}), ME)).value
            assert again.status == UNHEALTHY
        assert (await world.storage.state()).head == head + bool(change)
        world.probe.is_healthy = True
        await replica.service_check.check("svc")
        assert await status(world) == HEALTHY, "the checks say so"


async def test_unhealthy_instance_that_registers_without_a_check_url_is_healthy(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(**CHECKED), ME)
        world.probe.is_healthy = False
        for _ in range(3):
            await replica.service_check.check("svc")
        again = (await replica.directory.register(registration(lease_ttl_seconds=3600), ME)).value
        assert again.status == HEALTHY


async def test_suspect_instance_that_registers_again_is_healthy(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        async with replica.keep_alive.open("svc", "one"):
            pass
        while await status(world) != "SUSPECT":
            await SystemClock().sleep(0.001)
        again = (await replica.directory.register(registration(), ME)).value
        assert again.status == HEALTHY


@pytest.mark.parametrize("end", ["deregistered", "expired"])
async def test_generations_go_on_so_a_paused_owner_can_not_win(world: World, end: str) -> None:
    """The paused owner holds a node of the first incarnation. Its session is alive, and it does not know the second one."""
    async with LocalRegistryClient(world.registry, "paused") as paused, world.replica("a") as replica:
        first = (await replica.directory.register(registration(), ME)).value
        await paused.put(Node("svc", "one", "paused", first.generation))
        if end == "deregistered":
            await replica.directory.deregister("svc", "one", ME)
        else:
            world.clock.forward(31)
            await gone(replica, "one")
        second = (await replica.directory.register(registration(), ME)).value
        assert second.generation > first.generation
        assert second.incarnation > first.incarnation
        (node,) = await paused.nodes("svc")
        assert (node.owner, node.generation) == ("a", second.generation)


def record_after(
    registration: Registration, me: str, live: Sequence[str], record: Record | None, version: int
) -> Record:
    """The record that a registration makes of `record`, or creates after `version`."""
    ref = instance_ref(registration.service_name, registration.instance_id)
    view = View(version, {ref: record} if record else {}, {ref: version})
    (put,) = register(registration, me, live, view)
    assert isinstance(put, Put)
    return Record(ref, version + 1, version + 1, put.body, AT, AT, "")


def test_generation_never_falls_at_a_registration() -> None:
    """An instance that is owned under generation 5 registers again while its owner is dead."""
    one = with_defaults(registration(), 30)
    record = record_after(one, "a", ["a", "b"], None, 0)
    assert record.body["generation"] == 1
    claimed = updated(record, Action.UPDATE, owner="b", generation=5)
    assert isinstance(claimed, Put)
    record = Record(record.ref, 5, 5, claimed.body, AT, AT, "")
    dead = record_after(one, "a", ["a"], record, 5)
    assert (dead.body["owner"], dead.body["generation"]) == ("a", 6)
    alive = record_after(with_defaults(registration(weight=7), 30), "a", ["a", "b"], record, 5)
    assert (alive.body["owner"], alive.body["generation"]) == ("b", 5)
    again = record_after(one, "c", ["c"], None, 9)
    assert (again.body["generation"], again.body["incarnation"]) == (10, 10)


def test_registration_of_a_release_without_incarnations_counts_as_identical() -> None:
    one = with_defaults(registration(), 30)
    record = record_after(one, "a", ["a"], None, 0)
    old = Record(record.ref, 1, 1, {n: v for n, v in record.body.items() if n != "incarnation"}, AT, AT, "")
    assert register(one, "a", ["a"], View(1, {old.ref: old}, {old.ref: 1})) == ()
    assert Incarnation(old.ref, 0) < Incarnation(old.ref, 1)
