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
        assert await storage.listen(0.0) == 0.0
        assert await storage.listen(7.5) == 7.5
        assert await storage.listen(3.0) == 7.5
    async with open_storage() as storage:
        assert await storage.listen(0.0) == 7.5


async def test_the_last_sign_counts_and_one_never_given_is_missing(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        await storage.note({life(): 5.0, life("two"): 6.0})
        await storage.note({life(): 9.0, life("two"): 1.0})
    async with open_storage() as storage:
        found = await storage.signs([life(), life("two"), life("unseen")])
        assert {i: sign.seen_at for i, sign in found.items()} == {life(): 9.0, life("two"): 6.0}
        assert all(sign.granted_at < sign.seen_at for sign in found.values())
        assert await storage.signs([]) == {}


async def test_a_lease_is_granted_once_until_the_next_sign(storage: Storage) -> None:
    await storage.note({life(): 5.0})
    await storage.grant([life(), life("unseen")], 10.0)
    await storage.grant([life(), life("unseen")], 20.0)
    assert await storage.signs([life(), life("unseen")]) == {
        life(): Heartbeat(5.0, 10.0),
        life("unseen"): Heartbeat(10.0, 10.0),
    }
    await storage.note({life(): 8.0})
    await storage.grant([life()], 30.0)
    assert (await storage.signs([life()]))[life()] == Heartbeat(8.0, 10.0), "that sign was before it was granted"
    await storage.note({life(): 25.0})
    await storage.grant([life()], 40.0)
    assert (await storage.signs([life()]))[life()] == Heartbeat(25.0, 40.0)


async def test_an_earlier_incarnation_says_nothing_about_a_later_one(storage: Storage) -> None:
    await storage.note({life(number=2): 5.0})
    await storage.grant([life(number=2)], 6.0)
    await storage.note({life(number=4): 7.0})
    await storage.note({life(number=2): 90.0})
    await storage.grant([life(number=2)], 99.0)
    found = await storage.signs([life(number=2), life(number=4)])
    assert set(found) == {life(number=4)}
    sign = found[life(number=4)]
    assert sign.seen_at == 7.0
    assert sign.granted_at < sign.seen_at, "what the one before was granted is not this one's"
    await storage.grant([life(number=6)], 11.0)
    assert await storage.signs([life(number=4), life(number=6)]) == {life(number=6): Heartbeat(11.0, 11.0)}


async def test_those_that_are_long_gone_are_forgotten(storage: Storage) -> None:
    await storage.note({life(): 5.0, life("granted"): 5.0, life("seen"): 50.0})
    await storage.grant([life("granted")], 50.0)
    await storage.forget(20.0)
    assert set(await storage.signs([life(), life("granted"), life("seen")])) == {life("granted"), life("seen")}


async def test_writers_of_the_same_signs_do_not_lock_each_other(storage: Storage) -> None:
    many = [life(f"i{number}") for number in range(200)]

    async def write(number: int) -> None:
        named = many if number % 2 else many[::-1]
        await storage.note(dict.fromkeys(named, float(number)))
        await storage.grant(named, float(number))
        await storage.listen(float(number))

    await asyncio.gather(*(write(number) for number in range(20)))
    found = await storage.signs(many)
    assert {sign.seen_at for sign in found.values()} == {19.0}
    assert await storage.listen(0.0) == 19.0


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
        await (storage.note({incarnation: at}) if kind == "n" else storage.grant([incarnation], at))
    found = await storage.signs([life(name, number) for number in (1, 2, 3)])
    assert [(i.number, s.seen_at, s.granted_at) for i, s in found.items()] == ([known] if known else [])
