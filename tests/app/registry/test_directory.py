"""Registering, discovery, adoption and handover, over the real SQLite storage and the real local registry."""

import asyncio
from collections.abc import Sequence

import pytest

from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.clock import SystemClock
from configsvc.domain.records import Ref, View
from configsvc.errors import InvalidInput, NotFound, Unavailable
from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.storage.port import Reader, RecordPage, RecordQuery
from tests.app.registry.world import ME, World, gone, registration


async def test_registration_is_discoverable_until_its_lease_runs_out(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        assert [i.instance_id for i in (await replica.discovery.discover("svc")).instances] == ["one"]
        world.clock.forward(31)
        await gone(replica, "one")
        with pytest.raises(NotFound):
            await replica.directory.heartbeat("svc", "one")


async def test_heartbeats_renew_a_lease_without_a_write_to_the_log(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        head = (await world.storage.state()).head
        for _ in range(10):
            world.clock.forward(20)
            await replica.directory.heartbeat("svc", "one")
        assert (await world.storage.state()).head == head


async def test_identical_registration_takes_no_revision_and_another_updates_in_place(world: World) -> None:
    async with world.replica("a") as replica:
        first = await replica.directory.register(registration(), ME)
        again = await replica.directory.register(registration(), ME)
        changed = await replica.directory.register(registration(weight=7), ME)
        assert (again.value.revision, again.revision) == (first.value.revision, first.revision)
        assert (changed.value.weight, changed.value.registered_at) == (7, first.value.registered_at)
        assert changed.revision == first.revision + 1


async def test_deregistered_instance_stays_away_after_a_restart(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        await replica.directory.deregister("svc", "one", ME)
        assert (await replica.discovery.discover("svc")).instances == ()
    async with world.replica("a2") as restarted:
        assert restarted.discovery.services() == ()


async def test_instances_of_a_dead_replica_are_adopted_with_a_fresh_lease_at_the_start(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        world.clock.forward(29)
    async with world.replica("b") as survivor:
        world.clock.forward(29)
        (instance,) = (await survivor.discovery.discover("svc")).instances
        assert (instance.owner, instance.generation) == ("b", 2)
        await survivor.directory.heartbeat("svc", "one")


async def test_survivor_takes_over_instances_of_a_stopping_replica_without_a_gap(world: World) -> None:
    async with world.replica("b") as survivor:
        async with world.replica("a") as dying:
            revision = (await dying.directory.register(registration(), ME)).revision
            survivor.log_follower.apply(await world.storage.read(revision - 1, 10))
        while (await survivor.discovery.discover("svc")).instances[0].owner != "b":
            await SystemClock().sleep(0.001)


async def test_registration_at_another_replica_is_visible_at_once(world: World) -> None:
    async with world.replica("a") as one, world.replica("b", poll_seconds=1e6) as two:
        await one.directory.register(registration("first"), ME)
        assert [i.instance_id for i in (await two.discovery.discover("svc")).instances] == ["first"]
        await one.directory.register(registration("second"), ME)
        instance = (await two.directory.heartbeat("svc", "second")).value
        assert instance.instance_id == "second"


async def test_handover_skips_a_successor_that_has_just_died(world: World) -> None:
    """Its session has not expired yet, so it counts as live. Its instances must go to a replica that shows them."""
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
    """A reader that returns pages when this many callers have asked: all of them act on the same state."""

    def __init__(self, reader: Reader, readers: int) -> None:
        self._reader = reader
        self._barrier = asyncio.Barrier(readers)

    async def get(self, refs: Sequence[Ref]) -> View:
        return await self._reader.get(refs)

    async def page(self, query: RecordQuery) -> RecordPage:
        page = await self._reader.page(query)
        await self._barrier.wait()
        return page


async def test_of_three_concurrent_claims_of_an_orphan_one_wins(world: World) -> None:
    """Each replica is alone in its own registry, as in a partitioned network. So each claims all orphans."""
    names = [f"i{number:02}" for number in range(20)]
    async with world.replica("a") as dying:
        for name in names:
            revision = (await dying.directory.register(registration(name), ME)).revision
    together, over = Together(world.storage, 3), asyncio.Barrier(3)
    owners: list[dict[str, str]] = []

    async def claim(replica_id: str) -> None:
        async with world.replica(replica_id, registry=LocalRegistry(), reader=together) as replica:
            owners.append({i.instance_id: i.owner for i in (await replica.discovery.discover("svc")).instances})
            await over.wait()

    await asyncio.gather(*(claim(replica_id) for replica_id in "bcd"))
    claims = await world.storage.read(revision, 100)
    assert sorted(change.ref.key for change in claims) == names, "claimed once each"
    recorded = {change.ref.key: change.record for change in claims}
    assert {record.body["generation"] for record in recorded.values() if record} == {2}
    # The losers know the winner without reading the log.
    assert owners == [{name: record.body["owner"] for name, record in recorded.items() if record}] * 3


async def test_failing_checks_leave_a_stale_list_for_a_bounded_time(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(
            registration(health_check_url="http://one:1/health", lease_ttl_seconds=3600), ME
        )
        world.probe.is_healthy = False
        for _ in range(2):
            await replica.service_check.check("svc")
        assert not (await replica.discovery.discover("svc")).stale
        (third,) = await replica.service_check.check("svc")
        assert (third.passed, third.status, third.error) == (False, "UNHEALTHY", "switched off")
        listing = await replica.discovery.discover("svc")
        assert (listing.stale, len(listing.instances)) == (True, 1)
        world.clock.forward(61)
        assert (await replica.discovery.discover("svc")).instances == ()
        world.probe.is_healthy = True
        await replica.service_check.check("svc")
        assert not (await replica.discovery.discover("svc")).stale
        assert len((await replica.discovery.discover("svc")).instances) == 1


async def test_end_of_a_keep_alive_stream_makes_an_instance_suspect_until_its_next_heartbeat(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration(), ME)
        async with replica.keep_alive.open("svc", "one") as stream:
            assert await stream.renew() == 30
        while (await replica.discovery.service("svc")).instances[0].status != "SUSPECT":
            await SystemClock().sleep(0.001)
        await replica.directory.heartbeat("svc", "one")
        assert (await replica.discovery.service("svc")).instances[0].status == "HEALTHY"


async def known(replica: ServiceRegistry, status: str) -> None:
    """Returns when the replica knows the instance in this state."""
    while [
        i.status
        for i in (
            (await replica.discovery.discover("svc")).instances and (await replica.discovery.service("svc")).instances
        )
    ] != [status]:
        await SystemClock().sleep(0.001)


async def test_suspect_instance_with_a_stream_to_another_replica_becomes_healthy_again(
    world: World,
) -> None:
    """Its old replica notices late that the old connection is gone."""
    async with world.replica("a") as old, world.replica("b") as new:
        revision = (await old.directory.register(registration(), ME)).revision
        await known(new, "HEALTHY")
        async with new.keep_alive.open("svc", "one"):
            async with old.keep_alive.open("svc", "one"):
                pass
            while (await world.storage.state()).head < revision + 2:
                await SystemClock().sleep(0.001)
            await known(old, "HEALTHY")
            await known(new, "HEALTHY")


async def test_stopping_replica_does_not_make_instances_suspect(world: World) -> None:
    async with world.replica("a") as stopping, world.replica("b") as other:
        await stopping.directory.register(registration(), ME)
        await known(other, "HEALTHY")
        async with stopping.keep_alive.open("svc", "one"):
            stopping.keep_alive.shutdown()
            with pytest.raises(Unavailable) as caught:
                await stopping.keep_alive.unless_stopping(SystemClock().sleep(60))
            assert caught.value.reason == "SHUTTING_DOWN"
        # A write at the stream's end would come before this one.
        await stopping.directory.register(registration("two"), ME)
        (one, _) = (await stopping.discovery.service("svc")).instances
        assert one.status == "HEALTHY"


async def test_unknown_strategy_is_refused_with_the_field_name(world: World) -> None:
    async with world.replica("a") as replica:
        with pytest.raises(InvalidInput, match="strategy: must be one of round_robin"):
            await replica.discovery.pick("svc", strategy="fastest")
        with pytest.raises(InvalidInput, match="hash_key"):
            await replica.discovery.pick("svc", strategy="consistent_hash")
