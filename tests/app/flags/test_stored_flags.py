"""Stored flags: one that this release can't read harms only itself, and one of an earlier release has defaults."""

from pathlib import Path

import pytest
from configsvc_client.evaluation import Context, ErrorCode

from configsvc.domain.flag_filter import FlagFilter
from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Action, Put, Write
from configsvc.errors import FailedPrecondition
from tests.app.flags.world import AUTHOR, opened


async def test_unreadable_flag_leaves_its_environment_as_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.flag("good", rollout_percentage=100)
        evaluator = await world.evaluator()
        assert (await evaluator.one("test", "good", Context("u"))).value.value is True
        # A newer release's flag with an unknown operator: one replica gets it from the log, another reads it at its start.
        ref = flag_ref("test", "newer")
        condition = {"attribute": "a", "operator": "sounds_like", "values": ["x"], "negate": False}
        body = {**(await world.store.get("test", "good")).value.body, "name": "newer", "rules": [
            {"name": "", "conditions": [condition], "variant": "on", "split": []}]}  # fmt: skip
        await world.storage.write(Write(AUTHOR, (ref,), lambda view: (Put(ref, body, Action.CREATE),)))
        for one in (evaluator, await world.evaluator()):
            outcomes = (await one.batch("test", ["newer", "good"], Context("u"), explain=True)).value
            codes = [getattr(outcome, "error_code", None) for outcome in outcomes]
            assert codes == [ErrorCode.PARSE_ERROR, None]
            assert getattr(outcomes[1], "value", None) is True
        # Other flags can still be written, and its next version mends it.
        await world.flag("other", rollout_percentage=100)
        await world.flag("newer", rollout_percentage=100)
        mended = await world.evaluator()
        assert (await mended.one("test", "newer", Context("u"))).value.value is True


async def test_row_of_an_earlier_release_has_defaults_for_the_members_it_lacks(tmp_path: Path) -> None:
    """Whatever members a release adds, the rows that were stored before it are read, listed, written and required."""
    async with opened(tmp_path) as world:
        ref = flag_ref("test", "old")
        body = {"name": "old", "environment": "test", "enabled": True, "rollout_percentage": 100}
        await world.storage.write(Write(AUTHOR, (ref,), lambda view: (Put(ref, body, Action.CREATE),)))
        evaluator = await world.evaluator()
        assert (await evaluator.one("test", "old", Context("u"))).value.value is True
        for matching in (FlagFilter(), FlagFilter(enabled=True), FlagFilter(owner="")):
            assert len((await world.store.list("test", matching, 10, "")).items) == 1
        assert (await world.store.list("test", FlagFilter(tags=("t",)), 10, "")).items == ()
        await world.flag("child", prerequisites=[{"flag_name": "old", "variants": ["on"]}])
        with pytest.raises(FailedPrecondition, match="is a prerequisite of flag 'child'"):
            await world.store.delete(ref, AUTHOR)
        await world.store.update(ref, {"description": "new", "sticky": True}, AUTHOR)
        changed = {one.path for one in (await world.store.diff("test", "old", 1, 2)).differences}
        assert changed == {"/description", "/sticky"}
        restored = await world.store.rollback(ref, 1, AUTHOR)
        assert restored.written.body["description"] == ""
        assert restored.written.body["rollout_percentage"] == 100
