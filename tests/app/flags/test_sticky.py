"""Assignments of sticky flags belong to one incarnation, and end where the README says, whatever is written in between."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from configsvc_client.evaluation import Context
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from configsvc.app.flags.evaluation import EvaluationQuery
from configsvc.app.flags.evaluator import EvaluationRequest
from configsvc.domain.flags import flag_ref
from configsvc.domain.json_values import digest
from configsvc.domain.records import Action, Kind, Put, Scope
from tests.app.flags.world import AUTHOR, USERS, World, given, opened
from tests.app.replica import live, write_all

pytestmark = pytest.mark.timeout(120)

SALT = "always-the-same"
# Attributes whose values are those of other users' ids, so that nobody's unit is his own alone.
CONTEXTS = [Context(user, {"account": USERS[-1 - number]}) for number, user in enumerate(USERS)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


async def sticky(world: World, percentage: float = 0, **members: Any) -> None:
    await world.flag(**{"sticky": True, "salt": SALT, "rollout_percentage": percentage, **members})


async def on(world: World) -> set[str]:
    """Who has the feature, at a replica that comes now."""
    evaluator = await world.evaluator()
    requests = [EvaluationRequest("test", EvaluationQuery("f", context)) for context in CONTEXTS]
    outcomes = (await evaluator.many(requests)).value
    return {one.user_id for one, found in zip(CONTEXTS, outcomes, strict=True) if getattr(found, "value", False)}


async def delete(world: World) -> None:
    await world.store.delete(flag_ref("test", "f"), AUTHOR)


# Each ends all assignments, and leaves the flag as it was but for its percentage, which is 0.
ENDS: dict[str, Any] = {
    "deleted and made again with its salt": [delete, {}],
    "disabled and enabled": [{"enabled": False}, {}],
    "sticky off and on": [{"sticky": False}, {}],
    "bucketed by another attribute": [{"bucket_by": "account"}],
    "bucketed by another attribute and back": [{"bucket_by": "account"}, {}],
    "made again with another type": [
        delete,
        {"value_type": "string", "variants": [{"name": "on", "value": "1"}, {"name": "off", "value": ""}],
         "default_variant": "off", "on_variant": "on"},
    ],
    "of another type, under the same names": [
        {"value_type": "string", "variants": [{"name": "on", "value": "1"}, {"name": "off", "value": ""}],
         "default_variant": "off", "on_variant": "on"},
    ],
    "disabled, deleted, made again": [{"enabled": False}, delete, {}],
}  # fmt: skip


@pytest.mark.parametrize("steps", ENDS.values(), ids=ENDS)
async def test_nobody_has_at_0_percent_what_an_earlier_incarnation_gave(world: World, steps: list[Any]) -> None:
    await sticky(world, 50)
    assert len(await on(world)) > 10
    for step in steps:
        await (step(world) if callable(step) else sticky(world, **step))
    assert await on(world) == set()
    assert await on(world) == set()


async def test_what_is_no_new_incarnation_takes_nothing_from_anyone(world: World) -> None:
    await sticky(world, 50)
    had = await on(world)
    for step in (
        {}, {"description": "d", "tags": ["t"], "owner": "o"}, {"bucket_by": "user_id"}, {"targeted_users": ["nobody"]},
        {"rules": [{"conditions": [{"attribute": "no", "operator": "present"}], "variant": "off"}]},
        {"variants": [{"name": "on", "value": True}, {"name": "off", "value": False}, {"name": "new", "value": True}],
         "default_variant": "off", "on_variant": "new"},
    ):  # fmt: skip
        await sticky(world, **step)
        assert await on(world) == had


async def test_where_a_rule_or_the_targeted_users_decide_an_assignment_ends(world: World) -> None:
    await sticky(world, 100)
    everyone = await on(world)
    assert everyone == set(USERS)
    rule = {"conditions": [{"attribute": "user_id", "operator": "equals", "values": ["u1"]}], "variant": "off"}
    await sticky(world, targeted_users=["u0"], rules=[rule])
    assert await on(world) == everyone - {"u1"}
    await sticky(world)
    assert await on(world) == everyone - {"u0", "u1"}
    await sticky(world, 100)
    assert await on(world) == everyone
    await sticky(world)
    assert await on(world) == everyone, "what chance gives after that is kept like anything else"


async def test_a_prerequisite_that_is_not_met_meanwhile_ends_nothing(world: World) -> None:
    await world.flag("parent", rollout_percentage=100)
    needs = {"prerequisites": [{"flag_name": "parent", "variants": ["on"]}]}
    await sticky(world, 50, **needs)
    had = await on(world)
    await world.flag("parent", rollout_percentage=0)
    assert await on(world) == set()
    await world.flag("parent", rollout_percentage=100)
    await sticky(world, 0, **needs)
    assert await on(world) == had


async def test_what_a_replica_with_an_older_set_assigns_is_not_seen_by_a_newer_incarnation(world: World) -> None:
    await sticky(world, 100)
    old = await world.evaluator()
    await old.one("test", "f", Context("first"))
    await sticky(world, 0, enabled=False)
    await sticky(world, 0)
    # The clock stands still, so this replica has not heard of it.
    assert set((await given(old)).values()) == {"on"}
    assert await on(world) == set()


async def test_of_replicas_that_end_and_assign_at_once_all_agree_in_the_end(world: World) -> None:
    await sticky(world, 100)
    await on(world)
    await sticky(world, 100, targeted_users=USERS)
    ending = [await world.evaluator() for _ in range(3)]
    await asyncio.gather(*(given(one) for one in ending))
    await sticky(world, 50)
    fresh = [await world.evaluator() for _ in range(3)]
    found = await asyncio.gather(*(given(one) for one in fresh))
    assert found[0] == found[1] == found[2]
    assert set(found[0].values()) == {"on", "off"}


@pytest.mark.parametrize(("one", "other"), [("42", 42), (42, 42.0)])
async def test_units_that_share_a_bucket_share_their_assignment(world: World, one: Any, other: Any) -> None:
    await sticky(world, 100, bucket_by="account")
    evaluator = await world.evaluator()
    assert (await evaluator.one("test", "f", Context("u", {"account": one}))).value.value is True
    await sticky(world, bucket_by="account")
    evaluator = await world.evaluator()
    assert (await evaluator.one("test", "f", Context("u", {"account": other}))).value.value is True


async def test_flags_and_assignments_from_before_there_were_incarnations_still_count(world: World) -> None:
    await sticky(world, 50)
    ((ref, record),) = (await live(world.storage, Scope(Kind.FLAG, "test"))).items()
    old = {name: member for name, member in record.body.items() if name != "incarnation"}
    await write_all(world.storage, Put(ref, old, Action.UPDATE))
    had = await on(world)
    assert len(had) > 10
    keys = [f"assignment:test:f:{digest(SALT, json.dumps(user))}" for user in sorted(had)]
    assert set(await world.cache.get(keys)) == set(keys), "the keys of the release before"
    await sticky(world, 0)
    assert await on(world) == had
    await sticky(world, 0, enabled=False)
    await sticky(world, 0)
    assert await on(world) == set()


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
# What is changed, the percentage, and whether anybody evaluates the flag before the next write.
STEPS = st.tuples(CHANGES, st.sampled_from((0, 50, 100)), st.booleans())


@settings(max_examples=60, deadline=None)
@given_by(steps=st.lists(STEPS, min_size=2, max_size=8))
async def test_whatever_was_written_nobody_has_what_this_incarnation_never_gave(
    steps: list[tuple[dict[str, Any], float, bool]],
) -> None:
    """A model of who may have something: whom chance gave it since the incarnation began."""
    with TemporaryDirectory() as folder:
        async with opened(Path(folder)) as world:
            members: dict[str, Any] = {"enabled": True, "sticky": True, "bucket_by": "", "targeted_users": []}
            await sticky(world, 100, **members)
            may = await on(world)
            # At the end somebody looks, at 0 %.
            for change, percentage, looks in [*steps, ({}, 0, True)]:
                before = dict(members)
                if change.get("delete"):
                    await delete(world)
                    before = {}
                members |= {name: value for name, value in change.items() if name != "delete"}
                await sticky(world, percentage, **members)
                if any(before.get(name) != members[name] for name in ("enabled", "sticky", "bucket_by")):
                    may.clear()
                if not looks:
                    continue
                targeted = set(members["targeted_users"]) if members["enabled"] else set()
                by_chance = await on(world) - targeted
                if percentage == 0:
                    assert by_chance <= may
                may = (may | by_chance if members["sticky"] and members["enabled"] else set()) - targeted
