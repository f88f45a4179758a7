"""What was learnt of an instance ends with it: streams, checks, status and generations of one life and the next."""

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


class Held:
    """A probe that answers when the test says so, and what it says."""

    def __init__(self) -> None:
        self.looking = asyncio.Event()
        self.answers: asyncio.Queue[bool] = asyncio.Queue()

    async def check(self, url: str) -> None:
        self.looking.set()
        if not await self.answers.get():
            raise ProbeFailedError("switched off")


async def status(world: World, name: str = "one") -> str:
    """As the store has it."""
    view = await world.storage.get([instance_ref("svc", name)])
    record = view.get(instance_ref("svc", name))
    return str(record.body["status"]) if record else ""


async def test_the_end_of_an_old_stream_says_nothing_about_the_next_incarnation(world: World) -> None:
    async with world.replica("a") as directory:
        first, _ = await directory.directory.register(registration(), ME)
        async with directory.keep_alive.open("svc", "one") as old:
            await directory.directory.deregister("svc", "one", ME)
            second, _ = await directory.directory.register(registration(), ME)
            assert second.incarnation > first.incarnation
            with pytest.raises(NotFound):
                await old.renew()
        # Whatever the end would write comes before this.
        await directory.directory.register(registration("two"), ME)
        assert await status(world) == HEALTHY


async def test_a_stream_of_the_new_incarnation_does_not_hold_up_the_end_of_one(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(), ME)
        async with directory.keep_alive.open("svc", "one"):
            await directory.directory.deregister("svc", "one", ME)
            await directory.directory.register(registration(), ME)
            async with directory.keep_alive.open("svc", "one"):
                pass
            while await status(world) != "SUSPECT":
                await SystemClock().sleep(0.001)


async def test_failures_in_a_row_are_counted_anew_for_each_incarnation(world: World) -> None:
    async with world.replica("a") as directory:
        world.probe.well = False
        for _ in range(4):
            await directory.directory.register(registration(**CHECKED), ME)
            for _ in range(2):
                await directory.service_check.check("svc")
            assert await status(world) == HEALTHY, "two of three"
            await directory.directory.deregister("svc", "one", ME)


async def test_a_late_result_of_a_check_is_of_the_incarnation_that_was_looked_at(world: World) -> None:
    held = Held()
    world.probe = held  # type: ignore[assignment]
    async with world.replica("a") as directory:
        await directory.directory.register(registration(**CHECKED), ME)
        for _ in range(2):
            held.answers.put_nowait(False)
            await directory.service_check.check("svc")
        held.looking.clear()
        late = asyncio.create_task(directory.service_check.check("svc"))
        await held.looking.wait()
        await directory.directory.deregister("svc", "one", ME)
        await directory.directory.register(registration(**CHECKED), ME)
        held.answers.put_nowait(False)
        await late
        assert await status(world) == HEALTHY


async def test_a_late_result_of_a_check_is_of_the_url_that_was_looked_at(world: World) -> None:
    held = Held()
    world.probe = held  # type: ignore[assignment]
    async with world.replica("a") as directory:
        await directory.directory.register(registration(**CHECKED), ME)
        for _ in range(2):
            held.answers.put_nowait(False)
            await directory.service_check.check("svc")
        held.looking.clear()
        late = asyncio.create_task(directory.service_check.check("svc"))
        await held.looking.wait()
        await directory.directory.register(registration(**{**CHECKED, "health_check_url": "http://one:2/health"}), ME)
        held.answers.put_nowait(False)
        await late
        assert await status(world) == HEALTHY


@pytest.mark.parametrize("change", [{}, {"weight": 7}, {"health_check_url": "http://one:2/health"}])
async def test_an_instance_that_fails_its_checks_stays_unhealthy_when_it_registers_again(
    world: World, change: dict[str, Any]
) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(**CHECKED), ME)
        world.probe.well = False
        for _ in range(3):
            await directory.service_check.check("svc")
        assert await status(world) == UNHEALTHY
        head = (await world.storage.state()).head
        for _ in range(5):
            again, _ = await directory.directory.register(registration(**{**CHECKED, **change}), ME)
            assert again.status == UNHEALTHY
        assert (await world.storage.state()).head == head + bool(change)
        world.probe.well = True
        await directory.service_check.check("svc")
        assert await status(world) == HEALTHY, "the checks say so"


async def test_without_a_check_url_no_check_is_left_to_say_that_it_is_well(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(**CHECKED), ME)
        world.probe.well = False
        for _ in range(3):
            await directory.service_check.check("svc")
        again, _ = await directory.directory.register(registration(lease_ttl_seconds=3600), ME)
        assert again.status == HEALTHY


async def test_a_suspect_instance_that_registers_again_is_healthy(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(), ME)
        async with directory.keep_alive.open("svc", "one"):
            pass
        while await status(world) != "SUSPECT":
            await SystemClock().sleep(0.001)
        again, _ = await directory.directory.register(registration(), ME)
        assert again.status == HEALTHY


@pytest.mark.parametrize("end", ["deregistered", "expired"])
async def test_generations_go_on_so_that_a_sleeping_owner_can_not_win(world: World, end: str) -> None:
    """It holds a node of the first life; its session is alive, and it does not know of the second."""
    async with LocalRegistryClient(world.registry, "sleeper") as sleeper, world.replica("a") as directory:
        first, _ = await directory.directory.register(registration(), ME)
        await sleeper.put(Node("svc", "one", "sleeper", first.generation))
        if end == "deregistered":
            await directory.directory.deregister("svc", "one", ME)
        else:
            world.clock.forward(31)
            await gone(directory, "one")
        second, _ = await directory.directory.register(registration(), ME)
        assert second.generation > first.generation
        assert second.incarnation > first.incarnation
        (node,) = await sleeper.nodes("svc")
        assert (node.owner, node.generation) == ("a", second.generation)


def life(registration: Registration, me: str, live: Sequence[str], record: Record | None, version: int) -> Record:
    """The record after a registration."""
    ref = instance_ref(registration.service_name, registration.instance_id)
    view = View(version, {ref: record} if record else {}, {ref: version})
    (put,) = register(registration, me, live, view)
    assert isinstance(put, Put)
    return Record(ref, version + 1, version + 1, put.body, AT, AT, "")


def test_a_generation_never_falls_whoever_registers_and_whoever_is_dead() -> None:
    """Mutant 8: an instance that is owned by generation 5 registers again while its owner is dead."""
    one = with_defaults(registration(), 30)
    record = life(one, "a", ["a", "b"], None, 0)
    assert record.body["generation"] == 1
    claimed = updated(record, Action.UPDATE, owner="b", generation=5)
    assert isinstance(claimed, Put)
    record = Record(record.ref, 5, 5, claimed.body, AT, AT, "")
    dead = life(one, "a", ["a"], record, 5)
    assert (dead.body["owner"], dead.body["generation"]) == ("a", 6)
    alive = life(with_defaults(registration(weight=7), 30), "a", ["a", "b"], record, 5)
    assert (alive.body["owner"], alive.body["generation"]) == ("b", 5)
    again = life(one, "c", ["c"], None, 9)
    assert (again.body["generation"], again.body["incarnation"]) == (10, 10)


def test_a_registration_of_a_release_without_incarnations_is_the_same_when_it_comes_again() -> None:
    one = with_defaults(registration(), 30)
    record = life(one, "a", ["a"], None, 0)
    old = Record(record.ref, 1, 1, {n: v for n, v in record.body.items() if n != "incarnation"}, AT, AT, "")
    assert register(one, "a", ["a"], View(1, {old.ref: old}, {old.ref: 1})) == ()
    assert Incarnation(old.ref, 0) < Incarnation(old.ref, 1)
