"""An older backup is restored under a replica: the tail, the caches and the flag sets."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from configsvc.app.configs.near_cache import NearCache
from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.app.flags.sets import FlagSets
from configsvc.cache.local import LocalCache
from configsvc.domain.lineage import LEAP_REVISIONS
from configsvc.domain.records import AtRevision
from configsvc.errors import Unavailable
from tests.app.changelog.restoring import A, B, RestorableReplica
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import RecordingFollower, write

pytestmark = pytest.mark.timeout(120)


@dataclass
class Position:
    """A `LogPosition` that a test can set."""

    applied: int = 0
    history: str = ""
    since: int = 0
    stale_since: datetime | None = None


async def test_followers_reload_in_a_new_history_above_every_seen_revision(
    restorable: RestorableReplica, restore: Callable[[], None]
) -> None:
    seen = RecordingFollower()
    restorable.tail.subscribe(seen)
    before = restorable.tail.checkpoint
    restore()
    await restorable.catch_up()
    state = await restorable.storage.state()
    assert (restorable.tail.history, restorable.tail.applied) == (state.history, state.head)
    assert state.history != before.history
    assert seen.resets == [state.since] == [before.revision + LEAP_REVISIONS]
    origin = await restorable.storage.history_origin()
    assert origin.reason == f"the log ended at revision 1, and {before.revision} had been seen"
    # The log continues from there.
    await restorable.put((A, 3))
    await restorable.catch_up()
    assert seen.revisions == [state.since + 1]


async def test_restore_is_noticed_after_the_backup_has_grown_beyond_what_was_seen(
    restorable: RestorableReplica, restore: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = restorable.tail.checkpoint
    restore()
    await restorable.storage.__aexit__(None, None, None)
    async with restorable.database.open() as other:
        # Written by a process that has seen nothing of the lost log.
        for value in range(10):
            await write(other, (B, {"other": value}))
    await restorable.storage.__aenter__()
    await restorable.catch_up()
    assert restorable.tail.history != before.history
    assert restorable.tail.applied == 11 + LEAP_REVISIONS
    assert "the log said something else than was seen at revision 3" in caplog.text
    assert "configsvc new-history" in caplog.text


async def test_write_to_a_restored_database_is_refused_and_makes_the_tail_notice(
    restorable: RestorableReplica, restore: Callable[[], None]
) -> None:
    restore()
    with pytest.raises(Unavailable) as caught:
        await write(restorable.storage, (B, 3))
    assert caught.value.reason == "LOG_DIVERGED"
    await restorable.catch_up()
    assert (await restorable.put((B, 3))).history == restorable.tail.history


async def test_new_history_of_an_operator_is_adopted(
    restorable: RestorableReplica, restore: Callable[[], None]
) -> None:
    restore()
    marked = await restorable.storage.new_history("an operator's", leap=10)
    await restorable.catch_up()
    assert (restorable.tail.history, restorable.tail.applied) == (marked.history, marked.head)
    assert await restorable.storage.state() == marked


async def test_near_cache_drops_records_of_the_earlier_history(
    restorable: RestorableReplica, restore: Callable[[], None]
) -> None:
    near = NearCache(reader=restorable.storage, tail=restorable.tail, max_entries=100)
    restorable.tail.subscribe(near)
    lost = (await near.get([A, B])).records
    assert [record.body["value"] for record in lost.values()] == [2, 2]
    restore()
    await restorable.catch_up()
    found = await near.get([A, B])
    assert {ref: record.body["value"] for ref, record in found.records.items()} == {A: 1}
    # The same write again could get the same version and revision. It must not get the same etag.
    await restorable.put((A, 2))
    await restorable.catch_up()
    again = (await near.get([A])).records[A]
    assert (again.version, again.body) == (lost[A].version, lost[A].body)
    assert again.etag != lost[A].etag


async def test_record_of_another_history_is_not_cached(
    restorable: RestorableReplica, restore: Callable[[], None]
) -> None:
    near = NearCache(reader=restorable.storage, tail=restorable.tail, max_entries=100)
    restorable.tail.subscribe(near)
    restore()
    await restorable.storage.new_history("an operator's")
    # Before the tail has read the log.
    view = await near.get([A])
    assert (view.records[A].body["value"], len(near)) == (1, 0)
    await restorable.catch_up()
    assert len(near) == 0


async def test_fallback_entries_of_one_history_are_not_found_in_another(cache: LocalCache, clock: FakeClock) -> None:
    log = Position(history="one")
    async with FallbackCache(cache, clock, timedelta(days=1), log=log) as fallback_cache:
        await fallback_cache.put_if_absent([FallbackEntry("k", 5, lambda: "lost")])
        fallback_cache.put(FallbackEntry("late", 5, lambda: "lost"))
        log.history = "two"
        assert await fallback_cache.get(["k"]) == {}
        # A lower revision of the later history is not kept out by the higher one.
        assert await fallback_cache.put_if_absent([FallbackEntry("k", 3, lambda: "found")]) == {
            "k": AtRevision("found", 3)
        }
        await settle()
        assert await fallback_cache.get(["late"]) == {}


async def test_flag_set_of_an_earlier_history_is_not_served(restorable: RestorableReplica) -> None:
    sets = FlagSets(reader=restorable.storage, tail=restorable.tail)
    restorable.tail.subscribe(sets)
    flag_set = await sets.get("test")
    assert await sets.get("test") is flag_set
    await restorable.storage.new_history("an operator's")
    await restorable.catch_up()
    assert await sets.get("test") is not flag_set
