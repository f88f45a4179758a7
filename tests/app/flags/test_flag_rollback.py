"""Rollback and diff of flags: what is restored, what never changes, and what is refused."""

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
from tests.app.flags.world import AUTHOR, World, opened, variants_by_user
from tests.evaluation.samples import valid_flags

pytestmark = pytest.mark.timeout(120)

THREE = [{"name": "on", "value": True}, {"name": "off", "value": False}, {"name": "later", "value": True}]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened(tmp_path) as made:
        yield made


async def roll_back(world: World, version: int, **more: Any) -> Record:
    record = (await world.store.rollback(flags.flag_ref("test", "f"), version, AUTHOR, **more)).written
    return record


async def diff(world: World, older: int, newer: int = 0) -> Diff:
    return await world.store.diff("test", "f", older, newer)


@settings(max_examples=40, deadline=None)
@given(versions=st.lists(valid_flags(), min_size=2, max_size=4))
async def test_rollback_writes_the_definition_of_any_version_again(versions: list[Flag]) -> None:
    with TemporaryDirectory() as folder:
        async with opened(Path(folder)) as world:
            bodies: list[JsonObject | None] = []
            for number, flag in enumerate(versions):
                if number:
                    # Deleted in between, so that any version may follow any other.
                    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
                    bodies.append(None)
                record = (await world.store.create(flag.to_json(), AUTHOR)).written
                bodies.append(record.body)
            for version, body in enumerate(bodies, start=1):
                if body is None:
                    with pytest.raises(FailedPrecondition, match="is a delete"):
                        await roll_back(world, version)
                    continue
                (newest,) = (await world.store.history("test", "f", 1, "")).page.items
                if newest.after is not None:
                    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
                restored = await roll_back(world, version)
                assert flags.definition_of(restored.body) == flags.definition_of(body)
                assert (await diff(world, version)).differences == ()


async def test_history_names_the_rollback_and_versions_go_on(world: World) -> None:
    await world.flag(rollout_percentage=10)
    await world.flag(rollout_percentage=90, targeted_users=["u"])
    record = await roll_back(world, 1)
    (change, *_) = (await world.store.history("test", "f", 10, "")).page.items
    assert (change.action, change.version, record.version) == (Action.ROLLBACK, 3, 3)
    assert (record.body["rollout_percentage"], record.body["targeted_users"]) == (10, [])
    differences = [(d.path, d.op, d.before, d.after) for d in (await diff(world, 2, 3)).differences]
    assert differences[0] == ("/rollout_percentage", "replace", 90, 10)
    assert (differences[1][0], differences[1][1]) == ("/targeted_users/0", "remove")


async def test_rollback_keeps_the_salt_and_later_variants(world: World) -> None:
    await world.flag(rollout_percentage=50)
    await world.flag(variants=THREE, default_variant="later", on_variant="later")
    record = await roll_back(world, 1)
    flag = flags.flag_of(record)
    assert [variant.name for variant in flag.all_variants] == ["on", "off", "later"]
    assert (flag.served_on, flag.served_off, flag.served_default, flag.rollout_percentage) == ("on", "off", "off", 50)
    evaluator = await world.evaluator()
    assert set((await variants_by_user(evaluator)).values()) == {"on", "off"}
    # Recreated with another salt: an earlier version gets the current salt, since buckets never move.
    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
    await world.flag(salt="another")
    assert (await roll_back(world, 1)).body["salt"] == "another"


async def test_rollback_to_incompatible_variants_is_refused(world: World) -> None:
    await world.flag()
    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
    colours = [{"name": name, "value": name} for name in ("red", "green")]
    await world.flag(value_type="string", variants=colours, default_variant="red")
    with pytest.raises(FailedPrecondition, match="variants") as refused:
        await roll_back(world, 1)
    assert refused.value.reason == "VERSION_NOT_RESTORABLE"
    record = (await world.store.get("test", "f")).value
    assert record.version == 3


async def test_rollback_checks_prerequisites_against_the_current_flags(world: World) -> None:
    await world.flag("parent")
    await world.flag(prerequisites=[{"flag_name": "parent", "variants": ["on"]}])
    await world.flag()
    await world.flag("parent", prerequisites=[{"flag_name": "f", "variants": ["on"]}])
    with pytest.raises(FailedPrecondition, match=r"cycle: (f -> parent -> f|parent -> f -> parent)"):
        await roll_back(world, 1)
    await world.store.delete(flags.flag_ref("test", "parent"), AUTHOR)
    with pytest.raises(FailedPrecondition, match=r"prerequisites\[0\].flag_name"):
        await roll_back(world, 1)
    await world.flag("parent")
    assert (await roll_back(world, 1)).body["prerequisites"][0]["flag_name"] == "parent"


async def test_rollback_restores_a_deleted_flag_with_its_salt_and_without_assignments(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=0)
    await world.flag(sticky=True, rollout_percentage=100)
    salt = (await world.store.get("test", "f")).value.body["salt"]
    assert set((await variants_by_user(await world.evaluator())).values()) == {"on"}
    kept = await roll_back(world, 1)
    assert set((await variants_by_user(await world.evaluator())).values()) == {"on"}, "sticky: no new incarnation"
    await world.store.delete(flags.flag_ref("test", "f"), AUTHOR)
    restored = await roll_back(world, 1)
    assert restored.body["salt"] == salt == kept.body["salt"]
    assert restored.body["incarnation"] not in ("", kept.body["incarnation"])
    assert set((await variants_by_user(await world.evaluator())).values()) == {"off"}


async def test_enabling_by_rollback_begins_a_new_incarnation(world: World) -> None:
    await world.flag(sticky=True, rollout_percentage=0)
    await world.flag(sticky=True, rollout_percentage=100)
    await variants_by_user(await world.evaluator())
    await world.flag(sticky=True, enabled=False)
    await roll_back(world, 1)
    assert set((await variants_by_user(await world.evaluator())).values()) == {"off"}


async def test_rollback_and_diff_of_a_missing_version_are_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="no version 1") as missing:
        await roll_back(world, 1)
    assert missing.value.reason == "VERSION_NOT_FOUND"
    for _ in range(4):
        await world.flag()
    await world.storage.compact(RetentionPolicy(changes=2))
    for call in (roll_back, diff):
        with pytest.raises(NotFound, match="compacted away; versions 3 to 4 are left") as missing:
            await call(world, 1)
        assert missing.value.reason == "VERSION_COMPACTED"
    with pytest.raises(NotFound, match="has no version 9"):
        await roll_back(world, 9)
    record = (await world.store.get("test", "f")).value
    with pytest.raises(StaleEtag):
        await roll_back(world, 3, precondition=Precondition(("1-1",)))
    assert (await roll_back(world, 3, precondition=Precondition((record.etag,)))).version == 5


async def test_diff_ignores_a_member_that_the_older_version_predates(world: World) -> None:
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
    await roll_back(world, 1)
    evaluation = (await (await world.evaluator()).one("test", "f", Context("u"))).value
    assert (evaluation.value, evaluation.version) == (True, 3)
