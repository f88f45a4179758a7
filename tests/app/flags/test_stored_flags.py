"""A stored flag that this release can't read harms only itself, and can be mended."""

from pathlib import Path

from configsvc_client.evaluation import Context, ErrorCode

from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Action, Put, Write
from tests.app.flags.world import AUTHOR, opened


async def test_a_flag_that_can_t_be_read_leaves_its_environment_as_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.flag("good", rollout_percentage=100)
        evaluator = await world.evaluator()
        assert (await evaluator.one("test", "good", Context("u")))[0].value is True
        # Another release's, whose operator this one does not know: told by the log, and read at a start.
        ref = flag_ref("test", "newer")
        condition = {"attribute": "a", "operator": "sounds_like", "values": ["x"], "negate": False}
        body = {**(await world.store.get("test", "good")).value.body, "name": "newer", "rules": [
            {"name": "", "conditions": [condition], "variant": "on", "split": []}]}  # fmt: skip
        await world.storage.write(Write(AUTHOR, (ref,), lambda view: (Put(ref, body, Action.CREATE),)))
        for one in (evaluator, await world.evaluator()):
            outcomes, _ = await one.batch("test", ["newer", "good"], Context("u"), explain=True)
            codes = [getattr(outcome, "error_code", None) for outcome in outcomes]
            assert codes == [ErrorCode.PARSE_ERROR, None]
            assert getattr(outcomes[1], "value", None) is True
        # Other flags are written beside it, also such as need it; and it is mended by its next version.
        await world.flag("other", rollout_percentage=100)
        await world.flag("newer", rollout_percentage=100)
        mended = await world.evaluator()
        assert (await mended.one("test", "newer", Context("u")))[0].value is True
