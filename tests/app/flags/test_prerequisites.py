"""Prerequisites are checked on the state after a write: alone, and for flags that are written together."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from configsvc_client.evaluation import Context

from configsvc.domain.flags import creation, flag_ref, parse
from configsvc.domain.prerequisites import with_prerequisite_check
from configsvc.domain.records import Kind, Mutation, Ref, Scope, View, Write
from configsvc.errors import FailedPrecondition, InvalidInput
from tests.app.flags.world import AUTHOR, World, opened


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


def requiring(name: str, variant: str = "on") -> dict[str, Any]:
    return {"prerequisites": [{"flag_name": name, "variants": [variant]}]}


async def create_together(world: World, *definitions: dict[str, Any]) -> None:
    flags = [parse({"environment": "test", **definition}) for definition in definitions]

    def decide(view: View) -> Sequence[Mutation]:
        return [mutation for flag in flags for mutation in creation(flag, "token")(view)]

    reads: tuple[Ref | Scope, ...] = (*(flag_ref("test", flag.name) for flag in flags), Scope(Kind.FLAG, "test"))
    await world.storage.write(Write(AUTHOR, reads, with_prerequisite_check(decide)))


async def stored_names(world: World) -> list[str]:
    outcomes = (await (await world.evaluator()).batch("test", [], Context("u"))).value
    return [outcome.flag_name for outcome in outcomes]


async def test_prerequisite_on_a_missing_flag_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput) as refused:
        await world.flag("child", **requiring("gone"))
    assert [violation.field for violation in refused.value.violations] == ["prerequisites[0].flag_name"]
    assert await stored_names(world) == []


async def test_prerequisite_on_a_missing_variant_is_refused(world: World) -> None:
    await world.flag("parent")
    with pytest.raises(InvalidInput) as refused:
        await world.flag("child", **requiring("parent", "pink"))
    assert [violation.field for violation in refused.value.violations] == ["prerequisites[0].variants[0]"]
    await world.flag("child", **requiring("parent", "off"))
    assert await stored_names(world) == ["child", "parent"]


async def test_flags_that_are_written_together_may_require_each_other_in_any_order(world: World) -> None:
    await create_together(world, {"name": "child", **requiring("parent")}, {"name": "parent"})
    assert await stored_names(world) == ["child", "parent"]


async def test_one_wrong_flag_of_several_refuses_them_all(world: World) -> None:
    with pytest.raises(InvalidInput, match="must be a flag of environment 'test'"):
        await create_together(world, {"name": "a"}, {"name": "b", **requiring("a")}, {"name": "c", **requiring("gone")})
    assert await stored_names(world) == []


async def test_cycle_through_a_stored_flag_is_refused_with_its_path(world: World) -> None:
    await world.flag("a")
    await world.flag("b", **requiring("a"))
    with pytest.raises(InvalidInput, match=r"cycle: (a -> b -> a|b -> a -> b)") as refused:
        await world.flag("a", **requiring("b"))
    assert refused.value.reason == "PREREQUISITE_CYCLE"


async def test_flag_that_another_requires_cannot_be_deleted(world: World) -> None:
    await world.flag("parent")
    await world.flag("child", **requiring("parent"))
    with pytest.raises(FailedPrecondition, match="'parent' is a prerequisite of flag 'child'") as refused:
        await world.store.delete(flag_ref("test", "parent"), AUTHOR)
    assert (refused.value.reason, refused.value.metadata["dependent"]) == ("FLAG_IS_PREREQUISITE", "child")
    await world.store.delete(flag_ref("test", "child"), AUTHOR)
    await world.store.delete(flag_ref("test", "parent"), AUTHOR)
    assert await stored_names(world) == []
