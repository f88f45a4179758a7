"""An older backup is restored under a replica: its watches."""

from collections.abc import Callable

import pytest

from configsvc.app.watch.events import Synced
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.domain.records import Kind
from configsvc.errors import RevisionOutOfRange
from tests.app.changelog.restoring import A, RestorableReplica

pytestmark = pytest.mark.timeout(120)


SELECTOR = Selector(Kind.CONFIG, "test")


@pytest.fixture
def hub(restorable: RestorableReplica) -> WatchHub:
    opened = WatchHub(
        tail=restorable.tail, reader=restorable.storage, log=restorable.storage, clock=restorable.clock, buffer_changes=10,
        progress_seconds=10,
    )  # fmt: skip
    restorable.tail.subscribe(opened)
    return opened


async def refused(hub: WatchHub, after: int, history: str = "") -> str:
    with pytest.raises(RevisionOutOfRange) as caught:
        await anext(hub.watch(SELECTOR, after, history))
    return caught.value.reason


async def test_watches_end_when_the_log_gets_another_history(
    restorable: RestorableReplica, hub: WatchHub, restore: Callable[[], None]
) -> None:
    watches = [hub.watch(SELECTOR, None), hub.watch(SELECTOR, restorable.tail.applied)]
    for watch in watches:
        async for event in watch:
            if isinstance(event, Synced):
                break
    restore()
    await restorable.catch_up()
    for watch in watches:
        with pytest.raises(RevisionOutOfRange) as caught:
            await anext(watch)
        assert caught.value.reason == "HISTORY_CHANGED"
        assert caught.value.metadata["history"] == restorable.tail.history


async def test_watches_resume_only_in_their_own_history(
    restorable: RestorableReplica, hub: WatchHub, restore: Callable[[], None]
) -> None:
    before = restorable.tail.checkpoint
    restore()
    await restorable.catch_up()
    for revision in (1, before.revision, restorable.tail.applied):
        assert await refused(hub, revision, before.history) == "HISTORY_CHANGED"
    # Without a history: neither a lost revision, nor one from before the restore, which looks the same.
    for revision in (0, 1, before.revision, restorable.tail.since - 1):
        assert await refused(hub, revision) == "HISTORY_CHANGED"
    here = restorable.tail.applied
    await restorable.put((A, 3))
    await restorable.catch_up()
    for history in ("", restorable.tail.history):
        watch = hub.watch(SELECTOR, here, history)
        assert await anext(watch) == Synced(here)
        assert (await anext(watch)).change.after == {"value": 3}  # type: ignore[union-attr]
        await watch.aclose()


async def test_watch_waits_for_a_history_that_another_replica_told(
    restorable: RestorableReplica, hub: WatchHub, restore: Callable[[], None]
) -> None:
    restore()
    restored = await restorable.storage.new_history("by another", leap=10)
    watch = hub.watch(SELECTOR, restored.head, restored.history)
    assert await anext(watch) == Synced(restored.head)
    await watch.aclose()
