"""Rollback and diff of flags: what comes back, what never changes, and what forbids it."""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from configsvc_client.evaluation import Context, Flag
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.changelog.history import Diff
from configsvc.domain import flags
from configsvc.domain.preconditions import Precondition
from configsvc.domain.records import Action, JsonObject, Record
from configsvc.errors import FailedPrecondition, NotFound, StaleEtag
from configsvc.storage.port import RetentionPolicy
from tests.app.flags.world import AUTHOR, World, opened
from tests.app.flags.world import given as assigned
from tests.evaluation.samples import valid_flags

pytestmark = pytest.mark.timeout(120)

THREE = [{"name": "on", "value": True}, {"name": "off", "value": False}, {"name": "later", "value": True}]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


async def back(world: World, version: int, **more: Any) -> Record:
    record = (await world.store.rollback(flags.flag_ref("test", "f"), version, AUTHOR, **more)).written
    return record


async def diff(world: World, older: int, newer: int = 0) -> Diff:
    return await world.store.diff("test", "f", older, newer)


@settings(max_examples=40, deadline=None)
@given(versions=st.lists(valid_flags(), min_size=2, max_size=4))
async def test_a_rollback_writes_the_definition_of_any_version_again(versions: list[Flag]) -> None:
    with TemporaryDirectory() as folder:
        async with opened(Path(folder)) as world:
            bodies: list[JsonObject | None] = []
            for number, flag in enumerate(versions):
                if number:
                    # Deleted in between, so that any may follow any.
                    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
                    bodies.append(None)
                record = (await world.store.create(flag.to_json(), AUTHOR)).written
                bodies.append(record.body)
            for version, wanted in enumerate(bodies, start=1):
                if wanted is None:
                    with pytest.raises(FailedPrecondition, match="is a delete"):
                        await back(world, version)
                    continue
                (newest,) = (await world.store.history("test", "f", 1, "")).page.items
                if newest.after is not None:
                    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
                restored = await back(world, version)
                assert flags.definition_of(restored.body) == flags.definition_of(wanted)
                assert (await diff(world, version)).differences == ()


async def test_the_history_says_rollback_and_the_versions_go_on(world: World) -> None:
    await world.flag(rollout_percentage=10)
    await world.flag(rollout_percentage=90, targeted_users=["u"])
    record = await back(world, 1)
    (change, *_) = (await world.store.history("test", "f", 10, "")).page.items
    assert (change.action, change.version, record.version) == (Action.ROLLBACK, 3, 3)
    assert (record.body["rollout_percentage"], record.body["targeted_users"]) == (10, [])
    told = [(d.path, d.op, d.before, d.after) for d in (await diff(world, 2, 3)).differences]
    assert told[0] == ("/rollout_percentage", "replace", 90, 10)
    assert (told[1][0], told[1][1]) == ("/targeted_users/0", "remove")


async def test_salt_and_later_variants_stay_as_they_are(world: World) -> None:
    await world.flag(rollout_percentage=50)
    await world.flag(variants=THREE, default_variant="later", on_variant="later")
    record = await back(world, 1)
    flag = flags.flag_of(record)
    assert [variant.name for variant in flag.all_variants] == ["on", "off", "later"]
    assert (flag.served_on, flag.served_off, flag.served_default, flag.rollout_percentage) == ("on", "off", "off", 50)
    evaluator = await world.evaluator()
    assert set((await assigned(evaluator)).values()) == {"on", "off"}
    # Made again with another salt: a version from before keeps the one of now, since buckets never move.
    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
    await world.flag(salt="another")
    assert (await back(world, 1)).body["salt"] == "another"


async def test_variants_that_can_not_follow_are_refused_and_nothing_is_written(world: World) -> None:
    await world.flag()
    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
    colours = [{"name": name, "value": name} for name in ("red", "green")]
    await world.flag(value_type="string", variants=colours, default_variant="red")
    with pytest.raises(FailedPrecondition, match="variants") as refused:
        await back(world, 1)
    assert refused.value.reason == "VERSION_NOT_RESTORABLE"
    record = (await world.store.get("test", "f")).value
    assert record.version == 3


async def test_prerequisites_are_judged_as_of_now(world: World) -> None:
    await world.flag("parent")
    await world.flag(prerequisites=[{"flag_name": "parent", "variants": ["on"]}])
    await world.flag()
    await world.flag("parent", prerequisites=[{"flag_name": "f", "variants": ["on"]}])
    with pytest.raises(FailedPrecondition, match=r"cycle: (f -> parent -> f|parent -> f -> parent)"):
        await back(world, 1)
    await world.store.delete(flags.flag_ref("test", "parent"), AUTHOR)
    with pytest.raises(FailedPrecondition, match=r"prerequisites\[0\].flag_name"):
        await back(world, 1)
    await world.flag("parent")
    assert (await back(world, 1)).body["prerequisites"][0]["flag_name"] == "parent"


async def test_a_deleted_flag_comes_back_with_its_salt_and_nothing_assigned(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=0)
    await world.flag(sticky=True, rollout_percentage=100)
    salt = (await world.store.get("test", "f")).value.body["salt"]
    assert set((await assigned(await world.evaluator())).values()) == {"on"}
    kept = await back(world, 1)
    assert set((await assigned(await world.evaluator())).values()) == {"on"}, "sticky: no new incarnation"
    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
    restored = await back(world, 1)
    assert restored.body["salt"] == salt == kept.body["salt"]
    assert restored.body["incarnation"] not in ("", kept.body["incarnation"])
    assert set((await assigned(await world.evaluator())).values()) == {"off"}


async def test_enabling_by_rollback_begins_anew(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=0)
    await world.flag(sticky=True, rollout_percentage=100)
    await assigned(await world.evaluator())
    await world.flag(sticky=True, enabled=False)
    await back(world, 1)
    assert set((await assigned(await world.evaluator())).values()) == {"off"}


async def test_what_is_not_there_says_so(world: World) -> None:
    with pytest.raises(NotFound, match="no version 1") as missing:
        await back(world, 1)
    assert missing.value.reason == "VERSION_NOT_FOUND"
    for _ in range(4):
        await world.flag()
    await world.storage.compact(RetentionPolicy(changes=2))
    for call in (back, diff):
        with pytest.raises(NotFound, match="compacted away; versions 3 to 4 are left") as gone:
            await call(world, 1)
        assert gone.value.reason == "VERSION_COMPACTED"
    with pytest.raises(NotFound, match="has no version 9"):
        await back(world, 9)
    record = (await world.store.get("test", "f")).value
    with pytest.raises(StaleEtag):
        await back(world, 3, precondition=Precondition(("1-1",)))
    assert (await back(world, 3, precondition=Precondition((record.etag,)))).version == 5


async def test_a_diff_of_a_version_from_before_a_member_existed_does_not_show_it(world: World) -> None:
    await world.flag()
    ((ref, record),) = ((r.ref, r) for r in [(await world.store.get("test", "f")).value])
    old = {name: member for name, member in record.body.items() if name not in ("sticky", "incarnation")}
    assert flags.definition_of(old) == flags.definition_of(record.body)
    assert ref.key == "f"
    await world.flag(description="new")
    assert [d.path for d in (await diff(world, 1)).differences] == ["/description"]


async def test_evaluation_follows_a_rollback(world: World) -> None:
    await world.flag(rollout_percentage=100)
    await world.flag(rollout_percentage=0)
    await back(world, 1)
    evaluation = (await (await world.evaluator()).one("test", "f", Context("u"))).value
    assert (evaluation.value, evaluation.version) == (True, 3)
