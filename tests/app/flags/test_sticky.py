"""Assignments of sticky flags belong to one incarnation, and end where docs/flags.md says, whatever is written between."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from configsvc_client.evaluation import Context
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.flags.evaluation import EvaluationQuery
from configsvc.app.flags.evaluator import EvaluationRequest
from configsvc.domain.flags import flag_ref
from configsvc.domain.json_values import digest
from configsvc.domain.records import Action, Kind, Put, Scope
from tests.app.flags.world import AUTHOR, USERS, World, opened, variants_by_user
from tests.app.replica import live, write_all

pytestmark = pytest.mark.timeout(120)

SALT = "always-the-same"
# The account of each user is the id of another one, so that bucketing by account gives each user another's unit.
CONTEXTS = [Context(user, {"account": USERS[-1 - number]}) for number, user in enumerate(USERS)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


async def put_sticky_flag(world: World, percentage: float = 0, **members: Any) -> None:
    await world.flag(**{"sticky": True, "salt": SALT, "rollout_percentage": percentage, **members})


async def users_with_feature(world: World) -> set[str]:
    """The users that a new replica serves the feature."""
    evaluator = await world.evaluator()
    requests = [EvaluationRequest("test", EvaluationQuery("f", context)) for context in CONTEXTS]
    outcomes = (await evaluator.many(requests)).value
    return {one.user_id for one, found in zip(CONTEXTS, outcomes, strict=True) if getattr(found, "value", False)}


async def delete(world: World) -> None:
    await world.store.delete(flag_ref("test", "f"), AUTHOR)


# Each ends all assignments, and leaves the flag as it was, with a percentage of 0.
ENDS: dict[str, Any] = {
    "deleted and recreated with its salt": [delete, {}],
    "disabled and enabled": [{"enabled": False}, {}],
    "sticky off and on": [{"sticky": False}, {}],
    "bucketed by another attribute": [{"bucket_by": "account"}],
    "bucketed by another attribute and back": [{"bucket_by": "account"}, {}],
    "recreated with another type": [
        delete,
        {"value_type": "string", "variants": [{"name": "on", "value": "1"}, {"name": "off", "value": ""}],
         "default_variant": "off", "on_variant": "on"},
    ],
    "of another type, under the same names": [
        {"value_type": "string", "variants": [{"name": "on", "value": "1"}, {"name": "off", "value": ""}],
         "default_variant": "off", "on_variant": "on"},
    ],
    "disabled, deleted, recreated": [{"enabled": False}, delete, {}],
}  # fmt: skip


@pytest.mark.parametrize("steps", ENDS.values(), ids=ENDS)
async def test_assignments_of_an_earlier_incarnation_are_gone(world: World, steps: list[Any]) -> None:
    await put_sticky_flag(world, 50)
    assert len(await users_with_feature(world)) > 10
    for step in steps:
        await (step(world) if callable(step) else put_sticky_flag(world, **step))
    assert await users_with_feature(world) == set()
    assert await users_with_feature(world) == set()


async def test_write_that_keeps_the_incarnation_keeps_all_assignments(world: World) -> None:
    await put_sticky_flag(world, 50)
    had = await users_with_feature(world)
    for step in (
        {}, {"description": "d", "tags": ["t"], "owner": "o"}, {"bucket_by": "user_id"}, {"targeted_users": ["nobody"]},
        {"rules": [{"conditions": [{"attribute": "no", "operator": "present"}], "variant": "off"}]},
        {"variants": [{"name": "on", "value": True}, {"name": "off", "value": False}, {"name": "new", "value": True}],
         "default_variant": "off", "on_variant": "new"},
    ):  # fmt: skip
        await put_sticky_flag(world, **step)
        assert await users_with_feature(world) == had


async def test_assignment_ends_when_a_rule_or_the_targeted_users_decide(world: World) -> None:
    await put_sticky_flag(world, 100)
    everyone = await users_with_feature(world)
    assert everyone == set(USERS)
    rule = {"conditions": [{"attribute": "user_id", "operator": "equals", "values": ["u1"]}], "variant": "off"}
    await put_sticky_flag(world, targeted_users=["u0"], rules=[rule])
    assert await users_with_feature(world) == everyone - {"u1"}
    await put_sticky_flag(world)
    assert await users_with_feature(world) == everyone - {"u0", "u1"}
    await put_sticky_flag(world, 100)
    assert await users_with_feature(world) == everyone
    await put_sticky_flag(world)
    assert await users_with_feature(world) == everyone, "a later assignment is kept like the first"


async def test_assignment_survives_an_unmet_prerequisite(world: World) -> None:
    await world.flag("parent", rollout_percentage=100)
    needs = {"prerequisites": [{"flag_name": "parent", "variants": ["on"]}]}
    await put_sticky_flag(world, 50, **needs)
    had = await users_with_feature(world)
    await world.flag("parent", rollout_percentage=0)
    assert await users_with_feature(world) == set()
    await world.flag("parent", rollout_percentage=100)
    await put_sticky_flag(world, 0, **needs)
    assert await users_with_feature(world) == had


async def test_assignment_by_a_replica_with_an_older_set_stays_in_the_older_incarnation(world: World) -> None:
    await put_sticky_flag(world, 100)
    old = await world.evaluator()
    await old.one("test", "f", Context("first"))
    await put_sticky_flag(world, 0, enabled=False)
    await put_sticky_flag(world, 0)
    # The fake clock stands still, so this replica has not read the change.
    assert set((await variants_by_user(old)).values()) == {"on"}
    assert await users_with_feature(world) == set()


async def test_replicas_that_end_and_assign_concurrently_agree_in_the_end(world: World) -> None:
    await put_sticky_flag(world, 100)
    await users_with_feature(world)
    await put_sticky_flag(world, 100, targeted_users=USERS)
    ending = [await world.evaluator() for _ in range(3)]
    await asyncio.gather(*(variants_by_user(one) for one in ending))
    await put_sticky_flag(world, 50)
    fresh = [await world.evaluator() for _ in range(3)]
    found = await asyncio.gather(*(variants_by_user(one) for one in fresh))
    assert found[0] == found[1] == found[2]
    assert set(found[0].values()) == {"on", "off"}


@pytest.mark.parametrize(("one", "other"), [("42", 42), (42, 42.0)])
async def test_units_that_are_equal_in_json_share_their_assignment(world: World, one: Any, other: Any) -> None:
    await put_sticky_flag(world, 100, bucket_by="account")
    evaluator = await world.evaluator()
    assert (await evaluator.one("test", "f", Context("u", {"account": one}))).value.value is True
    await put_sticky_flag(world, bucket_by="account")
    evaluator = await world.evaluator()
    assert (await evaluator.one("test", "f", Context("u", {"account": other}))).value.value is True


async def test_assignments_from_before_incarnations_are_kept(world: World) -> None:
    await put_sticky_flag(world, 50)
    ((ref, record),) = (await live(world.storage, Scope(Kind.FLAG, "test"))).items()
    old = {name: member for name, member in record.body.items() if name != "incarnation"}
    await write_all(world.storage, Put(ref, old, Action.UPDATE))
    had = await users_with_feature(world)
    assert len(had) > 10
    keys = [f"assignment:test:f:{digest(SALT, json.dumps(user))}" for user in sorted(had)]
    assert set(await world.cache.get(keys)) == set(keys), "the keys of the release before"
    await put_sticky_flag(world, 0)
    assert await users_with_feature(world) == had
    await put_sticky_flag(world, 0, enabled=False)
    await put_sticky_flag(world, 0)
    assert await users_with_feature(world) == set()


CHANGES = st.sampled_from(
    [
        {},
        {"delete": True},
        {"enabled": True},
        {"enabled": False},
        {"sticky": True},
        {"sticky": False},
        {"bucket_by": ""},
        {"bucket_by": "account"},
        {"targeted_users": USERS[:3]},
        {"targeted_users": []},
    ]
)
# The change, the percentage, and whether the flag is evaluated before the next write.
STEPS = st.tuples(CHANGES, st.sampled_from((0, 50, 100)), st.booleans())


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, min_size=2, max_size=8))
async def test_no_user_has_what_this_incarnation_never_assigned(
    steps: list[tuple[dict[str, Any], float, bool]],
) -> None:
    """The model: the users that chance gave the feature since the incarnation began."""
    with TemporaryDirectory() as folder:
        async with opened(Path(folder)) as world:
            members: dict[str, Any] = {"enabled": True, "sticky": True, "bucket_by": "", "targeted_users": []}
            await put_sticky_flag(world, 100, **members)
            assigned_users = await users_with_feature(world)
            # At the end the flag is evaluated at 0 %.
            for change, percentage, evaluates in [*steps, ({}, 0, True)]:
                before = dict(members)
                if change.get("delete"):
                    await delete(world)
                    before = {}
                members |= {name: value for name, value in change.items() if name != "delete"}
                await put_sticky_flag(world, percentage, **members)
                if any(before.get(name) != members[name] for name in ("enabled", "sticky", "bucket_by")):
                    assigned_users.clear()
                if not evaluates:
                    continue
                targeted = set(members["targeted_users"]) if members["enabled"] else set()
                by_chance = await users_with_feature(world) - targeted
                if percentage == 0:
                    assert by_chance <= assigned_users
                assigned_users = (
                    assigned_users | by_chance if members["sticky"] and members["enabled"] else set()
                ) - targeted
