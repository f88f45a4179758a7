"""The directory on a clock that the test turns, over the real SQLite storage and the real local registry."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.clock import SystemClock
from configsvc.domain.balancing import Balancer
from configsvc.domain.instances import Instance
from configsvc.domain.records import Ref, View
from configsvc.errors import InvalidInput, NotFound, Unavailable
from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.storage.port import Reader, RecordPage, RecordQuery
from tests.app.registry.world import ME, World, gone, registration


async def test_a_fresh_registration_is_discoverable_and_leaves_when_its_lease_runs_out(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(), ME)
        assert [i.instance_id for i in (await directory.discovery.discover("svc")).instances] == ["one"]
        world.clock.forward(31)
        await gone(directory, "one")
        with pytest.raises(NotFound):
            await directory.directory.heartbeat("svc", "one")


async def test_heartbeats_keep_an_instance_and_write_nothing(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(), ME)
        head = (await world.storage.state()).head
        for _ in range(10):
            world.clock.forward(20)
            await directory.directory.heartbeat("svc", "one")
        assert (await world.storage.state()).head == head


async def test_registering_the_same_again_takes_no_revision_and_a_change_is_an_update_in_place(world: World) -> None:
    async with world.replica("a") as directory:
        first, revision = await directory.directory.register(registration(), ME)
        again, same = await directory.directory.register(registration(), ME)
        changed, later = await directory.directory.register(registration(weight=7), ME)
        assert (again.revision, same) == (first.revision, revision)
        assert (changed.weight, changed.registered_at, later) == (7, first.registered_at, revision + 1)


async def test_a_phantom_does_not_come_back_after_deregister(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(), ME)
        await directory.directory.deregister("svc", "one", ME)
        assert (await directory.discovery.discover("svc")).instances == ()
    async with world.replica("a2") as restarted:
        assert restarted.discovery.services() == ()


async def test_a_restart_adopts_what_the_dead_replica_kept_with_a_fresh_lease(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(), ME)
        world.clock.forward(29)
    async with world.replica("b") as survivor:
        world.clock.forward(29)
        (instance,) = (await survivor.discovery.discover("svc")).instances
        assert (instance.owner, instance.generation) == ("b", 2)
        await survivor.directory.heartbeat("svc", "one")


async def test_a_survivor_takes_over_while_both_run_and_the_instance_never_leaves(world: World) -> None:
    async with world.replica("b") as survivor:
        async with world.replica("a") as dying:
            _, revision = await dying.directory.register(registration(), ME)
            survivor.log_follower.apply(await world.storage.read(revision - 1, 10))
        while (await survivor.discovery.discover("svc")).instances[0].owner != "b":
            await SystemClock().sleep(0.001)


async def test_what_another_replica_just_registered_is_known_to_whoever_asks(world: World) -> None:
    async with world.replica("a") as one, world.replica("b", poll_seconds=1e6) as two:
        await one.directory.register(registration("first"), ME)
        assert [i.instance_id for i in (await two.discovery.discover("svc")).instances] == ["first"]
        await one.directory.register(registration("second"), ME)
        instance, _ = await two.directory.heartbeat("svc", "second")
        assert instance.instance_id == "second"


async def test_an_heir_that_died_a_moment_ago_is_passed_over(world: World) -> None:
    """Its session has not ended yet, so it counts as live; what it was given has to go to one that shows it."""
    names = [f"i{number:02}" for number in range(10)]

    async def tick() -> None:
        while True:
            world.clock.forward(0.05)
            await SystemClock().sleep(0.005)

    async with LocalRegistryClient(world.registry, "dead") as dead, world.replica("heir") as heir:
        ticking = asyncio.create_task(tick())
        async with world.replica("stopping") as stopping:
            for name in names:
                await stopping.directory.register(registration(name, lease_ttl_seconds=3600), ME)
        ticking.cancel()
        assert [(node.instance_id, node.owner) for node in await dead.nodes("svc")] == [(n, "heir") for n in names]
        assert [i.instance_id for i in (await heir.discovery.discover("svc")).instances] == names


class Together:
    """A reader whose pages are given when so many have asked: all of them act on the same state."""

    def __init__(self, reader: Reader, readers: int) -> None:
        self._reader = reader
        self._barrier = asyncio.Barrier(readers)

    async def get(self, refs: Sequence[Ref]) -> View:
        return await self._reader.get(refs)

    async def page(self, query: RecordQuery) -> RecordPage:
        page = await self._reader.page(query)
        await self._barrier.wait()
        return page


async def test_of_three_that_claim_the_same_orphans_at_once_one_has_each(world: World) -> None:
    """Each is alone in its own registry, as behind a parted network, so that each takes all orphans for its own."""
    names = [f"i{number:02}" for number in range(20)]
    async with world.replica("a") as dying:
        for name in names:
            _, revision = await dying.directory.register(registration(name), ME)
    together, over = Together(world.storage, 3), asyncio.Barrier(3)
    owners: list[dict[str, str]] = []

    async def claim(replica: str) -> None:
        async with world.replica(replica, registry=LocalRegistry(), reader=together) as directory:
            owners.append({i.instance_id: i.owner for i in (await directory.discovery.discover("svc")).instances})
            await over.wait()

    await asyncio.gather(*(claim(replica) for replica in "bcd"))
    claims = await world.storage.read(revision, 100)
    assert sorted(change.ref.key for change in claims) == names, "claimed once each"
    recorded = {change.ref.key: change.record for change in claims}
    assert {record.body["generation"] for record in recorded.values() if record} == {2}
    # The losers know who has won, without hearing of it.
    assert owners == [{name: record.body["owner"] for name, record in recorded.items() if record}] * 3


async def test_failing_checks_never_empty_a_list_at_once_and_the_protection_ends(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(
            registration(health_check_url="http://one:1/health", lease_ttl_seconds=3600), ME
        )
        world.probe.well = False
        for _ in range(2):
            await directory.service_check.check("svc")
        assert not (await directory.discovery.discover("svc")).stale
        (third,) = await directory.service_check.check("svc")
        assert (third.passed, third.status, third.error) == (False, "UNHEALTHY", "switched off")
        listing = await directory.discovery.discover("svc")
        assert (listing.stale, len(listing.instances)) == (True, 1)
        world.clock.forward(61)
        assert (await directory.discovery.discover("svc")).instances == ()
        world.probe.well = True
        await directory.service_check.check("svc")
        assert not (await directory.discovery.discover("svc")).stale
        assert len((await directory.discovery.discover("svc")).instances) == 1


async def test_the_end_of_a_keep_alive_stream_makes_an_instance_suspect_until_it_speaks_again(world: World) -> None:
    async with world.replica("a") as directory:
        await directory.directory.register(registration(), ME)
        async with directory.keep_alive.open("svc", "one") as stream:
            assert await stream.renew() == 30
        while (await directory.discovery.service("svc")).instances[0].status != "SUSPECT":
            await SystemClock().sleep(0.001)
        await directory.directory.heartbeat("svc", "one")
        assert (await directory.discovery.service("svc")).instances[0].status == "HEALTHY"


def instance(name: str, weight: int = 1) -> Instance:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    return Instance("svc", name, f"http://{name}", "", "HEALTHY", {}, weight, "", "", 30, at, at, 1, "", "a", 1)


def test_round_robin_is_fair_and_weights_are_kept_and_spread() -> None:
    three = [instance("a"), instance("b"), instance("c")]
    balancer = Balancer()
    assert [balancer.pick(three, "round_robin", "").instance_id for _ in range(6)] == ["a", "b", "c"] * 2
    heavy = [instance("a", 5), instance("b", 1), instance("c", 1)]
    turns = [Balancer.pick(smooth, heavy, "weighted", "").instance_id for smooth in [Balancer()] * 7]
    assert turns == ["a", "a", "b", "a", "c", "a", "a"]
    used = Balancer()
    assert {used.pick(three, "least_recently_used", "").instance_id for _ in range(3)} == {"a", "b", "c"}


def test_consistent_hash_moves_only_the_keys_of_the_instance_that_left() -> None:
    four = [instance(name) for name in "abcd"]
    before = {key: Balancer().pick(four, "consistent_hash", key).instance_id for key in map(str, range(500))}
    after = {key: Balancer().pick(four[:3], "consistent_hash", key).instance_id for key in before}
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == "d"}
    assert set(before.values()) == set("abcd")


async def known(directory: ServiceRegistry, status: str) -> None:
    """Returns when the directory has the instance in this state."""
    while [
        i.status
        for i in (
            (await directory.discovery.discover("svc")).instances
            and (await directory.discovery.service("svc")).instances
        )
    ] != [status]:
        await SystemClock().sleep(0.001)


async def test_an_instance_with_a_stream_to_another_replica_is_soon_well_again_when_its_old_one_ends(
    world: World,
) -> None:
    """It went on there, and its old replica has noticed only now that the connection is gone."""
    async with world.replica("a") as old, world.replica("b") as new:
        _, revision = await old.directory.register(registration(), ME)
        await known(new, "HEALTHY")
        async with new.keep_alive.open("svc", "one"):
            async with old.keep_alive.open("svc", "one"):
                pass
            while (await world.storage.state()).head < revision + 2:
                await SystemClock().sleep(0.001)
            await known(old, "HEALTHY")
            await known(new, "HEALTHY")


async def test_a_replica_that_stops_says_nothing_about_the_instances_whose_streams_it_ends(world: World) -> None:
    async with world.replica("a") as stopping, world.replica("b") as other:
        await stopping.directory.register(registration(), ME)
        await known(other, "HEALTHY")
        async with stopping.keep_alive.open("svc", "one"):
            stopping.keep_alive.shutdown()
            with pytest.raises(Unavailable) as caught:
                await stopping.keep_alive.unless_stopping(SystemClock().sleep(60))
            assert caught.value.reason == "SHUTTING_DOWN"
        # Whatever its end would write comes before this.
        await stopping.directory.register(registration("two"), ME)
        (one, _) = (await stopping.discovery.service("svc")).instances
        assert one.status == "HEALTHY"


async def test_a_strategy_that_does_not_exist_is_refused_by_name(world: World) -> None:
    async with world.replica("a") as directory:
        with pytest.raises(InvalidInput, match="strategy: must be one of round_robin"):
            await directory.discovery.pick("svc", strategy="fastest")
        with pytest.raises(InvalidInput, match="hash_key"):
            await directory.discovery.pick("svc", strategy="consistent_hash")
