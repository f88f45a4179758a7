"""A silent instance leaves after a bounded time, whatever happens to its owners, and a living one stays.

The bound is twice the lease, however many changes of owner, restarts and outages there are.
"""

import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from configsvc.app.registry.leases import expiry
from configsvc.app.registry.leases.expiry import CHECK_WAIT_SECONDS
from configsvc.app.registry.leases.leases import SETTLE_SECONDS, SWEEP_SECONDS, SYNC_SECONDS
from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.clock import SystemClock
from configsvc.domain.instances import Incarnation, instance_ref
from configsvc.errors import NotFound, Unavailable
from configsvc.probes.port import ProbeBusyError
from tests.app.registry.world import ME, World, gone, registration

TTL_SECONDS, HEARTBEAT_SECONDS, STEP_SECONDS = 10, 3.0, 6.0
# An owner may be this late; and the time that a dead owner had not synced yet does not count.
SLACK_SECONDS = 2 * SWEEP_SECONDS + SETTLE_SECONDS + SYNC_SECONDS
DEAD, ALIVE = "dead", "alive"


async def names(replica: ServiceRegistry) -> set[str]:
    try:
        return {instance.instance_id for instance in (await replica.discovery.service("svc")).instances}
    except NotFound:
        return set()


async def register_both(replica: ServiceRegistry, *others: ServiceRegistry) -> None:
    for name in (DEAD, ALIVE):
        await replica.directory.register(registration(name, lease_ttl_seconds=TTL_SECONDS), ME)
    for other in others:
        while await names(other) != {DEAD, ALIVE}:
            await SystemClock().sleep(0.001)


class Simulation:
    """Lets time pass with a living and a dead instance, and observes when they leave."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._until_heartbeat = HEARTBEAT_SECONDS
        self.silent_seconds = 0.0
        self.gone_after: float | None = None

    async def advance(self, seconds: float, *replicas: ServiceRegistry) -> None:
        """Meanwhile the living instance sends heartbeats to a random replica. Every replica must know it."""
        for _ in range(round(seconds / SWEEP_SECONDS)):
            await self._world.pass_time(SWEEP_SECONDS)
            self.silent_seconds += SWEEP_SECONDS
            self._until_heartbeat -= SWEEP_SECONDS
            if self._until_heartbeat <= 0:
                await random.choice(replicas).directory.heartbeat("svc", ALIVE)
                self._until_heartbeat = HEARTBEAT_SECONDS
            for replica in replicas:
                found = await names(replica)
                assert ALIVE in found, f"the living instance has left after {self.silent_seconds} s"
                if DEAD not in found and self.gone_after is None:
                    self.gone_after = self.silent_seconds

    def check(self, extra_seconds: float = 0.0) -> None:
        """Asserts that the dead instance has left: not before the end of its lease, and not after the bound."""
        assert self.gone_after is not None, "the dead instance has not left"
        assert TTL_SECONDS <= self.gone_after <= 2 * TTL_SECONDS + SLACK_SECONDS + extra_seconds


async def test_many_restarts_grant_one_lease(world: World) -> None:
    """The embedded service: its only replica comes back under its own name."""
    simulation = Simulation(world)
    async with world.replica("a") as replica:
        await register_both(replica)
        await simulation.advance(STEP_SECONDS, replica)
    restarts = 0
    while simulation.gone_after is None and restarts < 20:
        restarts += 1
        async with world.replica("a") as replica:
            await simulation.advance(STEP_SECONDS, replica)
    # At each restart the time since the last sync is lost.
    simulation.check(extra_seconds=restarts * SYNC_SECONDS)


async def test_downtime_of_the_service_does_not_count_as_silence(world: World) -> None:
    async with world.replica("a") as replica:
        await register_both(replica)
        await world.pass_time(1)
    for _ in range(10):
        # No replica could have heard a heartbeat. Then one runs for a moment, in which none is sent.
        world.clock.forward(3600)
        async with world.replica("a") as replica:
            await world.pass_time(HEARTBEAT_SECONDS / 6)
            assert await names(replica) == {DEAD, ALIVE}


@pytest.mark.parametrize("end", ["stopped", "expired"])
async def test_many_changes_of_owner_grant_one_lease(world: World, end: str) -> None:
    simulation = Simulation(world)
    async with AsyncExitStack() as stack:
        running = {name: await stack.enter_async_context(world.replica(name)) for name in "ab"}
        await register_both(*running.values())
        await simulation.advance(1, running["a"], running["b"])
        for turn in range(12):
            leaving, staying = ("a", "b") if turn % 2 == 0 else ("b", "a")
            if end == "expired":
                # Its session expires, as after a kill. It is back under the same name a moment later.
                world.sessions[leaving].expire()
                await simulation.advance(STEP_SECONDS, running[staying])
                world.sessions[leaving].resume()
            else:
                await running[leaving].handover.hand_over()
                await simulation.advance(STEP_SECONDS, *running.values())
            if simulation.gone_after is not None:
                break
    simulation.check()


async def test_many_outages_of_the_registry_grant_one_lease(world: World) -> None:
    simulation = Simulation(world)
    async with world.replica("a") as replica:
        await register_both(replica)
        for _ in range(20):
            await simulation.advance(2, replica)
            world.sessions["a"].suspend()
            await simulation.advance(1, replica)
            world.sessions["a"].resume()
            if simulation.gone_after is not None:
                break
    simulation.check()


async def test_no_lease_ends_while_the_registry_is_unreachable(world: World) -> None:
    async with world.replica("a") as replica:
        await register_both(replica)
        world.sessions["a"].suspend()
        await world.pass_time(5 * TTL_SECONDS)
        assert await names(replica) == {DEAD, ALIVE}
        world.sessions["a"].resume()
        await world.pass_time(TTL_SECONDS - SWEEP_SECONDS)
        assert await names(replica) == {DEAD, ALIVE}


async def test_outage_of_the_store_does_not_count_as_silence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.replica("a") as replica:
        await register_both(replica)
        await world.pass_time(TTL_SECONDS - 4)

        async def away(*_: object) -> float:
            raise Unavailable("the store is down")

        for _ in range(5):
            with monkeypatch.context() as patched:
                patched.setattr(world.storage, "advance_lease_clock", away)
                await world.pass_time(5 * TTL_SECONDS)
                assert await names(replica) == {DEAD, ALIVE}
            await replica.directory.heartbeat("svc", ALIVE)
            await world.pass_time(1)
            assert await names(replica) >= {ALIVE}


async def test_time_in_which_the_process_was_paused_does_not_count_as_silence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sweep counts as the first one after a pause."""
    monkeypatch.setattr(expiry, "PAUSED_SECONDS", -1.0)
    async with world.replica("a") as replica:
        await register_both(replica)
        await world.pass_time(5 * TTL_SECONDS)
        assert await names(replica) == {DEAD, ALIVE}


async def test_heartbeat_for_another_owner_survives_a_failed_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: object) -> None:
        raise Unavailable("the store is down")

    async with world.replica("a") as owner, world.replica("b") as other:
        await register_both(owner, other)
        await world.pass_time(2)
        record = owner.registrations.get(instance_ref("svc", ALIVE))
        assert record is not None
        incarnation = Incarnation.of(record)
        before = (await world.storage.heartbeats([incarnation]))[incarnation]
        with monkeypatch.context() as patched:
            patched.setattr(world.storage, "record_heartbeats", down)
            await other.directory.heartbeat("svc", ALIVE)
            await world.pass_time(2)
        await world.pass_time(1)
        after = (await world.storage.heartbeats([incarnation]))[incarnation]
        assert after.seen_at > before.seen_at


async def test_heartbeat_at_another_replica_renews_the_lease(world: World) -> None:
    async with world.replica("a") as owner, world.replica("b") as other:
        await register_both(owner, other)
        for _ in range(5):
            await world.pass_time(TTL_SECONDS - 2)
            await other.directory.heartbeat("svc", ALIVE)
            await world.pass_time(1)
        assert await names(owner) == {ALIVE}


@pytest.mark.parametrize("seed", range(6))
async def test_living_instance_stays_and_dead_one_leaves_in_random_runs(world: World, seed: int) -> None:
    """Sessions expire, owners hand over, and the registry is unreachable, at random."""
    random.seed(seed)
    simulation = Simulation(world)
    async with AsyncExitStack() as stack:
        running = {name: await stack.enter_async_context(world.replica(name)) for name in "abc"}
        await register_both(*running.values())
        await simulation.advance(1, *running.values())
        for _ in range(15):
            name = random.choice("abc")
            others = [replica for other, replica in running.items() if other != name]
            match random.randrange(3):
                case 0:
                    world.sessions[name].expire()
                    await simulation.advance(random.choice((0.5, 1, 2, 4)), *others)
                    world.sessions[name].resume()
                case 1:
                    world.sessions[name].suspend()
                    await simulation.advance(random.choice((0.5, 1, 2, 4)), *others)
                    world.sessions[name].resume()
                case _:
                    await running[name].handover.hand_over()
            await simulation.advance(random.choice((0.5, 1, 3)), *running.values())
            if simulation.gone_after is not None:
                break
        while simulation.gone_after is None and simulation.silent_seconds < 10 * TTL_SECONDS:
            await simulation.advance(1, *running.values())
    # An owner that can't reach the registry ends no lease. That adds one outage to the bound.
    simulation.check(extra_seconds=4)


class Busy:
    """A probe whose target is always busy."""

    async def check(self, url: str) -> None:
        raise ProbeBusyError


CHECKED: dict[str, Any] = {"health_check_url": "http://one:1/health"}


async def test_lease_waits_for_a_check_for_a_bounded_time(world: World) -> None:
    world.probe = Busy()  # type: ignore[assignment]
    async with world.replica("a") as replica:
        await replica.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
        await world.pass_time(5 * TTL_SECONDS)
        assert await names(replica) == {"one"}
        world.clock.forward(CHECK_WAIT_SECONDS)
        await gone(replica, "one")


async def test_passing_checks_renew_a_lease(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
        head = (await world.storage.state()).head
        for _ in range(10):
            # Longer than the lease, so there was no time for a check within it.
            world.clock.forward(2 * TTL_SECONDS)
            await world.pass_time(2)
            assert await names(replica) == {"one"}
        assert (await world.storage.state()).head == head


async def test_failing_checks_do_not_renew_a_lease(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
        world.probe.is_healthy = False
        world.clock.forward(TTL_SECONDS + 1)
        while await names(replica):
            await world.pass_time(1)
        assert world.clock.monotonic() < 2 * TTL_SECONDS


async def test_started_replica_checks_before_it_ends_a_lease_that_has_run_out(world: World) -> None:
    """Each owner was killed before it could check the instance."""
    async with world.replica("a") as replica:
        await replica.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
    for _ in range(5):
        async with world.replica("a") as replica:
            world.clock.forward(TTL_SECONDS + 1)
            await world.pass_time(1)
            assert await names(replica) == {"one"}
