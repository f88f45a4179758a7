"""The bound of the flag sets in memory, and which set goes if there is no room."""

from pathlib import Path

from configsvc_client.evaluation import FlagSet
from hypothesis import given
from hypothesis import strategies as st

from configsvc.app.flags.held_sets import COMPILED_FACTOR, SET_BYTES, HeldSets
from configsvc.app.flags.sets import FlagSets
from tests.app.flags.world import opened
from tests.app.replica import open_replica

BODY_BYTES = 5_000
ROOM_FOR_THREE = 3 * (SET_BYTES + BODY_BYTES * COMPILED_FACTOR)


class World:
    """Sets in memory, and the environments whose sets have gone, in order."""

    def __init__(self, max_bytes: int = ROOM_FOR_THREE) -> None:
        self.evicted: list[str] = []
        self.sets = HeldSets(max_bytes, self.evicted.append)

    def keep(self, *environments: str, body_bytes: int = BODY_BYTES) -> None:
        for environment in environments:
            self.sets.keep(FlagSet(environment), body_bytes)


def test_set_that_was_kept_first_goes_first() -> None:
    world = World()
    world.keep("a", "b", "c")
    assert world.evicted == []
    world.keep("d", "e")
    assert world.evicted == ["a", "b"]
    assert world.sets.get("a") is None
    assert world.sets.get("e") is not None
    assert world.sets.held_bytes == ROOM_FOR_THREE


def test_set_that_was_used_gets_a_second_chance() -> None:
    world = World()
    world.keep("a", "b", "c")
    world.sets.use("a")
    world.keep("d")
    assert world.evicted == ["b"]
    world.keep("e", "f", "g")
    assert world.evicted == ["b", "c", "d", "a"], "it was not used again"


def test_set_stays_that_alone_is_larger_than_the_bound() -> None:
    world = World()
    world.keep("a", "b")
    world.keep("large", body_bytes=ROOM_FOR_THREE)
    assert world.evicted == ["a", "b"]
    assert world.sets.get("large") is not None
    world.keep("c")
    assert world.evicted == ["a", "b", "large"]


def test_set_that_grows_makes_others_go() -> None:
    world = World()
    world.keep("a", "b", "c")
    world.sets.replace(FlagSet("a", (), 7), 1)
    assert world.evicted == ["b"], "the one that grew stays, although it is the oldest"
    held = world.sets.get("a")
    assert held is not None
    assert held.revision == 7
    world.sets.replace(FlagSet("a", (), 8), -1 - BODY_BYTES)
    assert world.sets.held_bytes == 2 * SET_BYTES + BODY_BYTES * COMPILED_FACTOR


def test_set_that_is_kept_again_counts_once() -> None:
    world = World()
    world.keep("a", "a", "a", "a", "a")
    assert world.evicted == []
    assert world.sets.held_bytes == ROOM_FOR_THREE // 3
    world.sets.clear()
    assert (world.sets.held_bytes, world.sets.get("a")) == (0, None)


def test_unknown_environments_are_not_remembered() -> None:
    world = World()
    assert world.sets.use("a") is None
    world.keep("a", "b", "c", "d")
    assert world.evicted == ["a"], "that it was asked for before it was kept is no use of it"


async def test_evicted_set_is_read_again_with_what_changed_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path) as world, open_replica(world.storage, world.clock) as replica:
        sets = FlagSets(reader=replica.reader, tail=replica.tail, max_bytes=1)
        replica.tail.subscribe(sets)
        await world.flag("f", rollout_percentage=10)
        assert [flag.name for flag in await sets.get("test")] == ["f"]
        assert list(await sets.get("other")) == []
        assert sets.peek("test") is None, "there is room for one"
        await world.flag("g")
        assert [flag.name for flag in await sets.get("test")] == ["f", "g"]
        assert sets.peek("other") is None


NAMES = st.sampled_from("abcdef")
STEPS = st.lists(st.tuples(st.sampled_from(["keep", "use", "grow"]), NAMES, st.integers(0, 2 * BODY_BYTES)))


@given(STEPS)
def test_bound_holds_unless_one_set_alone_exceeds_it(steps: list[tuple[str, str, int]]) -> None:
    world = World()
    sizes: dict[str, int] = {}
    for step, name, body_bytes in steps:
        gone = len(world.evicted)
        if step == "keep":
            sizes[name] = SET_BYTES + body_bytes * COMPILED_FACTOR
            world.keep(name, body_bytes=body_bytes)
        elif step == "use":
            world.sets.use(name)
        elif name in sizes:
            sizes[name] += body_bytes * COMPILED_FACTOR
            world.sets.replace(FlagSet(name), body_bytes)
        for evicted in world.evicted[gone:]:
            assert evicted != name
            del sizes[evicted]
        assert world.sets.held_bytes == sum(sizes.values())
        assert all(world.sets.get(held) is not None for held in sizes)
        assert world.sets.held_bytes <= ROOM_FOR_THREE or len(sizes) == 1
