"""Evaluation as a use case, by several replicas over one store and one cache."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from configsvc_client.evaluation import Context, Evaluation, Reason

from configsvc.app.flags.evaluation import EvaluationQuery, FailedItem
from configsvc.app.flags.evaluator import EvaluationRequest
from configsvc.app.flags.store import FlagStore
from configsvc.domain.flags import flag_ref
from configsvc.domain.limits import Limits
from configsvc.errors import FailedPrecondition
from tests.app.flags.world import AUTHOR, HOUR, USERS, World, opened, variants_by_user
from tests.app.replica import open_storage

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


async def test_new_replica_serves_what_another_assigned(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=50)
    before = await variants_by_user(await world.evaluator())
    assert set(before.values()) == {"on", "off"}
    await world.flag(sticky=True, rollout_percentage=0)
    assert await variants_by_user(await world.evaluator()) == before


async def test_user_outside_the_rollout_is_not_kept_outside(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=0)
    assert set((await variants_by_user(await world.evaluator())).values()) == {"off"}
    await world.flag(sticky=True, rollout_percentage=100)
    assert set((await variants_by_user(await world.evaluator())).values()) == {"on"}


async def test_first_assignment_stands_if_replicas_disagree(world: World) -> None:
    colours = [{"name": name, "value": name} for name in ("red", "green")]
    members: dict[str, Any] = {
        "sticky": True, "value_type": "string", "variants": colours, "default_variant": "red", "rollout_percentage": 100,
    }  # fmt: skip
    await world.flag(**members, rollout_split=[{"variant": "green", "weight": 1}])
    old = await world.evaluator()
    await variants_by_user(old)
    await world.flag(**members, rollout_split=[{"variant": "red", "weight": 1}])
    new = await world.evaluator()
    assert set((await variants_by_user(new)).values()) == {"green"}


async def test_recreated_flag_has_no_assignments(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=100)
    assert set((await variants_by_user(await world.evaluator())).values()) == {"on"}
    await world.store.delete(flag_ref("test", "f"), AUTHOR)
    await world.flag(sticky=True, rollout_percentage=0)
    assert set((await variants_by_user(await world.evaluator())).values()) == {"off"}


async def test_sticky_flag_is_evaluated_like_any_other_while_the_cache_is_away(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=50)
    evaluator = await world.evaluator()
    before = await variants_by_user(evaluator)
    world.cache.is_away = True
    assert await variants_by_user(evaluator) == before
    await world.flag(sticky=True, rollout_percentage=0)
    assert set((await variants_by_user(await world.evaluator())).values()) == {"off"}
    world.cache.is_away = False
    assert await variants_by_user(await world.evaluator()) == before, "the assignments are still there"


async def test_assignment_expires_if_the_user_does_not_return(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=100)
    evaluator = await world.evaluator()
    await evaluator.one("test", "f", Context("comes"))
    await evaluator.one("test", "f", Context("stays away"))
    await world.flag(sticky=True, rollout_percentage=0)
    evaluator = await world.evaluator()
    for _ in range(6):
        await world.clock.advance(HOUR.total_seconds() / 3)
        assert (await evaluator.one("test", "f", Context("comes"))).value.variant == "on"
    assert (await evaluator.one("test", "f", Context("stays away"))).value.variant == "off"


async def test_batch_takes_one_read_and_one_write_of_the_cache(world: World) -> None:
    for number in range(20):
        await world.flag(f"f{number}", sticky=True, rollout_percentage=100)
    await world.flag("loose", rollout_percentage=100)
    evaluator = await world.evaluator()
    outcomes = (await evaluator.batch("test", [], Context("u"))).value
    assert len(outcomes) == 21
    assert world.cache.round_trips == 3, "read, write, and read again"
    world.cache.round_trips = 0
    await evaluator.batch("test", ["loose"], Context("u"))
    assert world.cache.round_trips == 0


async def test_requests_of_one_environment_share_one_read_of_the_cache(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=100)
    evaluator = await world.evaluator()
    requests = [EvaluationRequest("test", EvaluationQuery("f", Context(user))) for user in USERS]
    requests.insert(1, EvaluationRequest("", EvaluationQuery("f", Context("nowhere"))))
    requests.insert(3, EvaluationRequest("test", EvaluationQuery("missing", Context("u"))))
    outcomes = (await evaluator.many(requests)).value
    assert world.cache.round_trips == 3
    codes = [getattr(outcome, "code", "") for outcome in outcomes]
    assert (codes[1], codes[3]) == ("INVALID_CONTEXT", "FLAG_NOT_FOUND")
    assert [o.variant for o in outcomes if isinstance(o, Evaluation)] == ["on"] * len(USERS)


async def test_sticky_flag_is_refused_without_a_cache_for_assignments(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as storage:
        store = FlagStore(writer=storage, reader=storage, history=storage, limits=Limits(), keeps_assignments=False)
        definition = {"name": "f", "environment": "test", "enabled": True, "sticky": True}
        with pytest.raises(FailedPrecondition, match="REDIS_HOST") as refused:
            await store.create(definition, AUTHOR)
        assert refused.value.reason == "STICKY_NEEDS_REDIS"
        await store.create({**definition, "sticky": False}, AUTHOR)


async def test_every_replica_gives_the_same_evaluation(world: World) -> None:
    await world.flag(rollout_percentage=50, targeted_users=["u1"])
    await world.flag(
        "object", value_type="object", variants=[{"name": "v", "value": {"a": [1, None]}}], default_variant="v"
    )
    first, second = await world.evaluator(), await world.evaluator()
    for user in USERS:
        for name in ("f", "object"):
            context = Context(user, {"plan": "pro", "n": 1.5})
            assert await first.one("test", name, context) == await second.one("test", name, context)
    assert world.cache.round_trips == 0


async def test_change_of_a_flag_or_of_its_prerequisite_changes_the_evaluation(world: World) -> None:
    await world.flag("parent", rollout_percentage=100)
    child: dict[str, Any] = {
        "rollout_percentage": 100, "prerequisites": [{"flag_name": "parent", "variants": ["on"]}],
    }  # fmt: skip
    await world.flag("child", **child)
    evaluator = await world.evaluator()
    assert (await evaluator.one("test", "child", Context("u"))).value.value is True
    await world.flag("parent", enabled=False)
    evaluator = await world.evaluator()
    assert (await evaluator.one("test", "child", Context("u"))).value.reason is Reason.DISABLED
    await world.flag("child", rollout_percentage=100)
    evaluator = await world.evaluator()
    assert (await evaluator.one("test", "child", Context("u"))).value.value is True


async def test_single_batch_and_many_give_the_same_evaluation(world: World) -> None:
    await world.flag(rollout_percentage=100)
    evaluator = await world.evaluator()
    single = (await evaluator.one("test", "f", Context("u"))).value
    batch = (await evaluator.batch("test", [], Context("u"))).value
    many = (await evaluator.many([EvaluationRequest("test", EvaluationQuery("f", Context("u")))])).value
    assert [single] == list(batch) == list(many)


async def test_contexts_that_differ_in_the_type_of_a_value_are_told_apart(world: World) -> None:
    rules = [{"conditions": [{"attribute": "n", "operator": "equals", "values": [1]}], "variant": "on"}]
    await world.flag(rules=rules)
    evaluator = await world.evaluator()
    contexts = [Context("u", {"n": 1}), Context("u", {"n": "1"}), Context("u", {"n": True}), Context("u"), Context("1")]
    values = [(await evaluator.one("test", "f", context)).value.value for context in contexts]
    assert values == [True, False, False, False, False]


async def test_explanation_is_given_if_the_query_asks_for_it(world: World) -> None:
    await world.flag(rollout_percentage=50)
    evaluator = await world.evaluator()
    for explain in (True, False):
        evaluation = (await evaluator.one("test", "f", Context("u"), explain=explain)).value
        assert (evaluation.explanation is not None) is explain
    (failed,) = (await evaluator.batch("test", ["missing"], Context("u"), explain=True)).value
    assert isinstance(failed, FailedItem)
    assert failed.code == "FLAG_NOT_FOUND"


async def test_concurrent_first_evaluations_agree(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=50)
    evaluators = [await world.evaluator() for _ in range(3)]
    results = await asyncio.gather(*(variants_by_user(evaluator) for evaluator in evaluators))
    assert results[0] == results[1] == results[2]


async def test_flag_that_another_replica_just_created_is_evaluated(world: World) -> None:
    await world.flag("first")
    evaluator = await world.evaluator()
    await evaluator.one("test", "first", Context("u"))
    # The fake clock stands still, so this replica does not poll, and gets no notification.
    await world.flag("second", rollout_percentage=100)
    assert (await evaluator.one("test", "second", Context("u"))).value.value is True
    await world.flag("third", rollout_percentage=100)
    outcomes = (await evaluator.batch("test", ["third", "fourth"], Context("u"))).value
    assert isinstance(outcomes[0], Evaluation)
    assert isinstance(outcomes[1], FailedItem)
