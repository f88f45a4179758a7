"""What `storage/port.py` promises of signs of life, whichever database keeps the promise."""

import asyncio
import secrets

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.domain.instances import Incarnation, instance_ref
from configsvc.storage.port import Heartbeat, Storage
from tests.conformance.storage.writing import StorageFactory


def life(instance_id: str = "one", number: int = 1) -> Incarnation:
    return Incarnation(instance_ref("payments", instance_id), number)


async def test_the_highest_that_anyone_has_heard_is_kept(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        assert await storage.advance_lease_clock(0.0) == 0.0
        assert await storage.advance_lease_clock(7.5) == 7.5
        assert await storage.advance_lease_clock(3.0) == 7.5
    async with open_storage() as storage:
        assert await storage.advance_lease_clock(0.0) == 7.5


async def test_the_last_sign_counts_and_one_never_given_is_missing(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        await storage.record_heartbeats({life(): 5.0, life("two"): 6.0})
        await storage.record_heartbeats({life(): 9.0, life("two"): 1.0})
    async with open_storage() as storage:
        found = await storage.heartbeats([life(), life("two"), life("unseen")])
        assert {i: heartbeat.seen_at for i, heartbeat in found.items()} == {life(): 9.0, life("two"): 6.0}
        assert all(heartbeat.granted_at < heartbeat.seen_at for heartbeat in found.values())
        assert await storage.heartbeats([]) == {}


async def test_a_lease_is_granted_once_until_the_next_sign(storage: Storage) -> None:
    await storage.record_heartbeats({life(): 5.0})
    await storage.grant_leases([life(), life("unseen")], 10.0)
    await storage.grant_leases([life(), life("unseen")], 20.0)
    assert await storage.heartbeats([life(), life("unseen")]) == {
        life(): Heartbeat(5.0, 10.0),
        life("unseen"): Heartbeat(10.0, 10.0),
    }
    await storage.record_heartbeats({life(): 8.0})
    await storage.grant_leases([life()], 30.0)
    assert (await storage.heartbeats([life()]))[life()] == Heartbeat(8.0, 10.0), "that sign was before it was granted"
    await storage.record_heartbeats({life(): 25.0})
    await storage.grant_leases([life()], 40.0)
    assert (await storage.heartbeats([life()]))[life()] == Heartbeat(25.0, 40.0)


async def test_an_earlier_incarnation_says_nothing_about_a_later_one(storage: Storage) -> None:
    await storage.record_heartbeats({life(number=2): 5.0})
    await storage.grant_leases([life(number=2)], 6.0)
    await storage.record_heartbeats({life(number=4): 7.0})
    await storage.record_heartbeats({life(number=2): 90.0})
    await storage.grant_leases([life(number=2)], 99.0)
    found = await storage.heartbeats([life(number=2), life(number=4)])
    assert set(found) == {life(number=4)}
    heartbeat = found[life(number=4)]
    assert heartbeat.seen_at == 7.0
    assert heartbeat.granted_at < heartbeat.seen_at, "what the one before was granted is not this one's"
    await storage.grant_leases([life(number=6)], 11.0)
    assert await storage.heartbeats([life(number=4), life(number=6)]) == {life(number=6): Heartbeat(11.0, 11.0)}


async def test_those_that_are_long_gone_are_forgotten(storage: Storage) -> None:
    await storage.record_heartbeats({life(): 5.0, life("granted"): 5.0, life("seen"): 50.0})
    await storage.grant_leases([life("granted")], 50.0)
    await storage.forget_heartbeats(20.0)
    assert set(await storage.heartbeats([life(), life("granted"), life("seen")])) == {life("granted"), life("seen")}


async def test_writers_of_the_same_signs_do_not_lock_each_other(storage: Storage) -> None:
    many = [life(f"i{number}") for number in range(200)]

    async def write(number: int) -> None:
        named = many if number % 2 else many[::-1]
        await storage.record_heartbeats(dict.fromkeys(named, float(number)))
        await storage.grant_leases(named, float(number))
        await storage.advance_lease_clock(float(number))

    await asyncio.gather(*(write(number) for number in range(20)))
    found = await storage.heartbeats(many)
    assert {heartbeat.seen_at for heartbeat in found.values()} == {19.0}
    assert await storage.advance_lease_clock(0.0) == 19.0


STEPS = st.lists(st.tuples(st.sampled_from("ng"), st.integers(1, 3), st.integers(0, 9)), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_any_order_of_notes_and_grants_is_what_the_law_says(
    storage: Storage, steps: list[tuple[str, int, int]]
) -> None:
    # The database is the same for all examples.
    name = secrets.token_hex(8)
    known: tuple[int, float, float] | None = None
    for kind, number, at in steps:
        incarnation = life(name, number)
        if known is None or number > known[0]:
            known = (number, at, at if kind == "g" else -1)
        elif number == known[0] and kind == "n":
            known = (number, max(known[1], at), known[2])
        elif number == known[0] and known[2] < known[1]:
            known = (number, known[1], at)
        await (storage.record_heartbeats({incarnation: at}) if kind == "n" else storage.grant_leases([incarnation], at))
    found = await storage.heartbeats([life(name, number) for number in (1, 2, 3)])
    assert [(i.number, s.seen_at, s.granted_at) for i, s in found.items()] == ([known] if known else [])
