"""How long a silent instance stays, whatever becomes of its owners, and that a living one stays all the time.

The bound: its lease, and once the same again, however many changes of owner, restarts and absences there are.
"""

import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from configsvc.app.registry.leases.expiry import CHECK_WAIT_SECONDS
from configsvc.app.registry.leases.leases import SETTLE_SECONDS, SWEEP_SECONDS, SYNC_SECONDS
from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.clock import SystemClock
from configsvc.errors import NotFound, Unavailable
from configsvc.probes.port import ProbeBusyError
from tests.app.registry.world import ME, World, gone, registration

TTL_SECONDS, BEAT_SECONDS, STIR_SECONDS = 10, 3.0, 6.0
# Each owner may be this late, and what a dead one had not told yet is not counted.
LATE_SECONDS = 2 * SWEEP_SECONDS + SETTLE_SECONDS + SYNC_SECONDS
DEAD, BEATS = "dead", "alive"


async def names(directory: ServiceRegistry) -> set[str]:
    try:
        return {instance.instance_id for instance in (await directory.discovery.service("svc")).instances}
    except NotFound:
        return set()


async def register_both(directory: ServiceRegistry, *others: ServiceRegistry) -> None:
    for name in (DEAD, BEATS):
        await directory.directory.register(registration(name, lease_ttl_seconds=TTL_SECONDS), ME)
    for other in others:
        while await names(other) != {DEAD, BEATS}:
            await SystemClock().sleep(0.001)


class Played:
    """Time that passes with a living and a dead instance, and what becomes of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._until_beat = BEAT_SECONDS
        self.silent_seconds = 0.0
        self.gone_after: float | None = None

    async def on(self, seconds: float, *directories: ServiceRegistry) -> None:
        """The living one beats at one of them, whichever; all of them have it."""
        for _ in range(round(seconds / SWEEP_SECONDS)):
            await self._world.pass_time(SWEEP_SECONDS)
            self.silent_seconds += SWEEP_SECONDS
            self._until_beat -= SWEEP_SECONDS
            if self._until_beat <= 0:
                await random.choice(directories).directory.heartbeat("svc", BEATS)
                self._until_beat = BEAT_SECONDS
            for directory in directories:
                found = await names(directory)
                assert BEATS in found, f"the living one has left after {self.silent_seconds} s"
                if DEAD not in found and self.gone_after is None:
                    self.gone_after = self.silent_seconds

    def check(self, lost_seconds: float = 0.0) -> None:
        """It has left: not before its lease was over, and not after the bound."""
        assert self.gone_after is not None, "it lives for ever"
        assert TTL_SECONDS <= self.gone_after <= 2 * TTL_SECONDS + LATE_SECONDS + lost_seconds


async def test_restarts_grant_one_lease_however_many_there_are(world: World) -> None:
    """The embedded service, whose only replica comes back under its own name."""
    played = Played(world)
    async with world.replica("a") as directory:
        await register_both(directory)
        await played.on(STIR_SECONDS, directory)
    restarts = 0
    while played.gone_after is None and restarts < 20:
        restarts += 1
        async with world.replica("a") as directory:
            await played.on(STIR_SECONDS, directory)
    # With each restart the time since the store was last told is lost.
    played.check(lost_seconds=restarts * SYNC_SECONDS)


async def test_the_time_in_which_the_service_was_down_is_nobodys_silence(world: World) -> None:
    async with world.replica("a") as directory:
        await register_both(directory)
        await world.pass_time(1)
    for _ in range(10):
        # Nobody could have heard anything. Then for a moment, in which nobody happened to say anything.
        world.clock.forward(3600)
        async with world.replica("a") as directory:
            await world.pass_time(BEAT_SECONDS / 6)
            assert await names(directory) == {DEAD, BEATS}


@pytest.mark.parametrize("end", ["stopped", "expired"])
async def test_owners_that_go_in_turn_grant_one_lease(world: World, end: str) -> None:
    played = Played(world)
    async with AsyncExitStack() as stack:
        running = {name: await stack.enter_async_context(world.replica(name)) for name in "ab"}
        await register_both(*running.values())
        await played.on(1, running["a"], running["b"])
        for turn in range(12):
            leaving, staying = ("a", "b") if turn % 2 == 0 else ("b", "a")
            if end == "expired":
                # Its session ends, as after a kill; it is back under the same name a moment later.
                world.sessions[leaving].expire()
                await played.on(STIR_SECONDS, running[staying])
                world.sessions[leaving].resume()
            else:
                await running[leaving].handover.hand_over()
                await played.on(STIR_SECONDS, *running.values())
            if played.gone_after is not None:
                break
    played.check()


async def test_a_registry_that_is_away_again_and_again_grants_one_lease(world: World) -> None:
    played = Played(world)
    async with world.replica("a") as directory:
        await register_both(directory)
        for _ in range(20):
            await played.on(2, directory)
            world.sessions["a"].suspend()
            await played.on(1, directory)
            world.sessions["a"].resume()
            if played.gone_after is not None:
                break
    played.check()


async def test_no_lease_ends_while_the_registry_is_away(world: World) -> None:
    async with world.replica("a") as directory:
        await register_both(directory)
        world.sessions["a"].suspend()
        await world.pass_time(5 * TTL_SECONDS)
        assert await names(directory) == {DEAD, BEATS}
        world.sessions["a"].resume()
        await world.pass_time(TTL_SECONDS - SWEEP_SECONDS)
        assert await names(directory) == {DEAD, BEATS}


async def test_the_time_in_which_the_store_was_away_is_nobodys_silence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.replica("a") as directory:
        await register_both(directory)
        await world.pass_time(TTL_SECONDS - 4)

        async def away(*_: object) -> float:
            raise Unavailable("the store is away")

        for _ in range(5):
            with monkeypatch.context() as patched:
                patched.setattr(world.storage, "advance_lease_clock", away)
                await world.pass_time(5 * TTL_SECONDS)
                assert await names(directory) == {DEAD, BEATS}
            await directory.directory.heartbeat("svc", BEATS)
            await world.pass_time(1)
            assert await names(directory) >= {BEATS}


async def test_a_sign_at_another_replica_counts_when_the_owner_looks(world: World) -> None:
    async with world.replica("a") as owner, world.replica("b") as other:
        await register_both(owner, other)
        for _ in range(5):
            await world.pass_time(TTL_SECONDS - 2)
            await other.directory.heartbeat("svc", BEATS)
            await world.pass_time(1)
        assert await names(owner) == {BEATS}


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_stirs_a_living_instance_stays_and_a_dead_one_leaves(world: World, seed: int) -> None:
    """A random play of sessions that end, owners that hand on, and absences of the registry."""
    random.seed(seed)
    played = Played(world)
    async with AsyncExitStack() as stack:
        running = {name: await stack.enter_async_context(world.replica(name)) for name in "abc"}
        await register_both(*running.values())
        await played.on(1, *running.values())
        for _ in range(15):
            name = random.choice("abc")
            others = [directory for other, directory in running.items() if other != name]
            match random.randrange(3):
                case 0:
                    world.sessions[name].expire()
                    await played.on(random.choice((0.5, 1, 2, 4)), *others)
                    world.sessions[name].resume()
                case 1:
                    world.sessions[name].suspend()
                    await played.on(random.choice((0.5, 1, 2, 4)), *others)
                    world.sessions[name].resume()
                case _:
                    await running[name].handover.hand_over()
            await played.on(random.choice((0.5, 1, 3)), *running.values())
            if played.gone_after is not None:
                break
        while played.gone_after is None and played.silent_seconds < 10 * TTL_SECONDS:
            await played.on(1, *running.values())
    # An owner that is cut off from the registry ends nothing: one absence more.
    played.check(lost_seconds=4)


class Busy:
    """A probe that never comes to look."""

    async def check(self, url: str) -> None:
        raise ProbeBusyError


CHECKED: dict[str, Any] = {"health_check_url": "http://one:1/health"}


async def test_a_lease_that_checks_keep_does_not_end_for_want_of_one_for_a_bounded_time(world: World) -> None:
    world.probe = Busy()  # type: ignore[assignment]
    async with world.replica("a") as directory:
        await directory.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
        await world.pass_time(5 * TTL_SECONDS)
        assert await names(directory) == {"one"}
        world.clock.forward(CHECK_WAIT_SECONDS)
        await gone(directory, "one")


async def test_passing_checks_keep_an_instance_that_says_nothing(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
        head = (await world.storage.state()).head
        for _ in range(10):
            # Longer than the lease, so that there was no time for a check within it.
            world.clock.forward(2 * TTL_SECONDS)
            await world.pass_time(2)
            assert await names(directory) == {"one"}
        assert (await world.storage.state()).head == head


async def test_failing_checks_keep_nobody(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
        world.probe.well = False
        world.clock.forward(TTL_SECONDS + 1)
        while await names(directory):
            await world.pass_time(1)
        assert world.clock.monotonic() < 2 * TTL_SECONDS


async def test_a_fresh_replica_looks_before_it_ends_a_lease_that_was_over(world: World) -> None:
    """Whoever was owner had no time to check it: killed each time before a check."""
    async with world.replica("a") as directory:
        await directory.directory.register(registration(lease_ttl_seconds=TTL_SECONDS, **CHECKED), ME)
    for _ in range(5):
        async with world.replica("a") as directory:
            world.clock.forward(TTL_SECONDS + 1)
            await world.pass_time(1)
            assert await names(directory) == {"one"}
