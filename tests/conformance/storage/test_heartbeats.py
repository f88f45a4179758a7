"""What `storage/port` promises of heartbeats."""

import asyncio
import secrets

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.domain.instances import Incarnation, instance_ref
from configsvc.storage.port import Heartbeat, Storage
from tests.conformance.storage.writing import StorageFactory


def incarnation(instance_id: str = "one", number: int = 1) -> Incarnation:
    return Incarnation(instance_ref("payments", instance_id), number)


async def test_lease_clock_never_goes_back_and_survives_a_restart(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        assert await storage.advance_lease_clock(0.0) == 0.0
        assert await storage.advance_lease_clock(7.5) == 7.5
        assert await storage.advance_lease_clock(3.0) == 7.5
    async with open_storage() as storage:
        assert await storage.advance_lease_clock(0.0) == 7.5


async def test_latest_heartbeat_is_stored_and_unknown_instances_are_missing(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        await storage.record_heartbeats({incarnation(): 5.0, incarnation("two"): 6.0})
        await storage.record_heartbeats({incarnation(): 9.0, incarnation("two"): 1.0})
    async with open_storage() as storage:
        found = await storage.heartbeats([incarnation(), incarnation("two"), incarnation("unseen")])
        assert {i: heartbeat.seen_at for i, heartbeat in found.items()} == {incarnation(): 9.0, incarnation("two"): 6.0}
        assert all(heartbeat.granted_at < heartbeat.seen_at for heartbeat in found.values())
        assert await storage.heartbeats([]) == {}


async def test_lease_is_granted_once_until_the_next_heartbeat(storage: Storage) -> None:
    await storage.record_heartbeats({incarnation(): 5.0})
    await storage.grant_leases([incarnation(), incarnation("unseen")], 10.0)
    await storage.grant_leases([incarnation(), incarnation("unseen")], 20.0)
    assert await storage.heartbeats([incarnation(), incarnation("unseen")]) == {
        incarnation(): Heartbeat(5.0, 10.0),
        incarnation("unseen"): Heartbeat(10.0, 10.0),
    }
    await storage.record_heartbeats({incarnation(): 8.0})
    await storage.grant_leases([incarnation()], 30.0)
    assert (await storage.heartbeats([incarnation()]))[incarnation()] == Heartbeat(8.0, 10.0), (
        "the heartbeat was before the grant, so it gets no other"
    )
    await storage.record_heartbeats({incarnation(): 25.0})
    await storage.grant_leases([incarnation()], 40.0)
    assert (await storage.heartbeats([incarnation()]))[incarnation()] == Heartbeat(25.0, 40.0)


async def test_heartbeat_of_an_earlier_incarnation_is_ignored(storage: Storage) -> None:
    await storage.record_heartbeats({incarnation(number=2): 5.0})
    await storage.grant_leases([incarnation(number=2)], 6.0)
    await storage.record_heartbeats({incarnation(number=4): 7.0})
    await storage.record_heartbeats({incarnation(number=2): 90.0})
    await storage.grant_leases([incarnation(number=2)], 99.0)
    found = await storage.heartbeats([incarnation(number=2), incarnation(number=4)])
    assert set(found) == {incarnation(number=4)}
    heartbeat = found[incarnation(number=4)]
    assert heartbeat.seen_at == 7.0
    assert heartbeat.granted_at < heartbeat.seen_at, "a grant of the earlier incarnation does not count"
    await storage.grant_leases([incarnation(number=6)], 11.0)
    assert await storage.heartbeats([incarnation(number=4), incarnation(number=6)]) == {
        incarnation(number=6): Heartbeat(11.0, 11.0)
    }


async def test_old_heartbeats_are_deleted_unless_a_lease_is_newer(storage: Storage) -> None:
    await storage.record_heartbeats({incarnation(): 5.0, incarnation("granted"): 5.0, incarnation("seen"): 50.0})
    await storage.grant_leases([incarnation("granted")], 50.0)
    await storage.forget_heartbeats(20.0)
    assert set(await storage.heartbeats([incarnation(), incarnation("granted"), incarnation("seen")])) == {
        incarnation("granted"),
        incarnation("seen"),
    }


async def test_concurrent_writers_of_the_same_heartbeats_do_not_deadlock(storage: Storage) -> None:
    instances = [incarnation(f"i{number}") for number in range(200)]

    async def write(number: int) -> None:
        ordered = instances if number % 2 else instances[::-1]
        await storage.record_heartbeats(dict.fromkeys(ordered, float(number)))
        await storage.grant_leases(ordered, float(number))
        await storage.advance_lease_clock(float(number))

    await asyncio.gather(*(write(number) for number in range(20)))
    found = await storage.heartbeats(instances)
    assert {heartbeat.seen_at for heartbeat in found.values()} == {19.0}
    assert await storage.advance_lease_clock(0.0) == 19.0


STEPS = st.lists(st.tuples(st.sampled_from(["heartbeat", "grant"]), st.integers(1, 3), st.integers(0, 9)), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_heartbeats_and_grants_in_any_order_match_the_model(
    storage: Storage, steps: list[tuple[str, int, int]]
) -> None:
    # All examples share one database.
    name = secrets.token_hex(8)
    known: tuple[int, float, float] | None = None
    for step, number, at in steps:
        one = incarnation(name, number)
        if known is None or number > known[0]:
            known = (number, at, at if step == "grant" else -1)
        elif number == known[0] and step == "heartbeat":
            known = (number, max(known[1], at), known[2])
        elif number == known[0] and known[2] < known[1]:
            known = (number, known[1], at)
        await (storage.record_heartbeats({one: at}) if step == "heartbeat" else storage.grant_leases([one], at))
    found = await storage.heartbeats([incarnation(name, number) for number in (1, 2, 3)])
    assert [(i.number, s.seen_at, s.granted_at) for i, s in found.items()] == ([known] if known else [])
