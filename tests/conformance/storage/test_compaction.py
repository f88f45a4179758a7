"""What `storage/port.py` promises of compaction, whichever database keeps the promise."""

from datetime import datetime, timedelta

import pytest

from configsvc.domain.records import Action, Put
from configsvc.errors import RevisionOutOfRange
from configsvc.storage.port import ChangeQuery, QuietPeriods, RetentionPolicy, Storage, VersionRange
from tests.conformance.storage.writing import NOON, author, batch, config, put, remove, revisions

MANY = 1_000_000


async def write_at(storage: Storage, *minutes: float) -> None:
    """One revision at each of these minutes after noon."""
    for number, minute in enumerate(minutes):
        await storage.write(put(config(f"key-{number}"), number, by=author(f"r{number}", minutes=minute)))


async def test_the_newest_changes_stay_and_the_oldest_are_out_of_range(storage: Storage) -> None:
    await write_at(storage, *range(10))
    assert await storage.compact(RetentionPolicy(4)) == 6
    assert await revisions(storage) == [7, 8, 9, 10]
    with pytest.raises(RevisionOutOfRange):
        await storage.read(5, 100)
    assert await storage.compact(RetentionPolicy(4)) == 6


async def test_a_change_that_is_too_old_goes_though_there_is_room(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2, 3, 4)
    assert await storage.compact(RetentionPolicy(MANY, NOON + timedelta(minutes=2))) == 2
    assert await revisions(storage) == [3, 4, 5]


async def test_number_and_age_each_bound_the_log(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2, 3, 4)
    assert await storage.compact(RetentionPolicy(4, NOON)) == 1
    assert await storage.compact(RetentionPolicy(4, NOON + timedelta(minutes=3))) == 3


async def test_when_all_changes_are_too_old_the_log_is_empty_and_records_stay(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2)
    assert await storage.compact(RetentionPolicy(MANY, NOON + timedelta(hours=1))) == 3
    assert await revisions(storage) == []
    view = await storage.get([config(f"key-{number}") for number in range(3)])
    assert len(view.records) == 3
    assert (await storage.write(put(config("next")))).revision == 4
    assert await revisions(storage) == [4]


async def test_a_change_of_a_slow_clock_stays_behind_one_that_stays(storage: Storage) -> None:
    await write_at(storage, 10, 0, 11)
    assert await storage.compact(RetentionPolicy(MANY, NOON + timedelta(minutes=5))) == 0
    assert await revisions(storage) == [1, 2, 3]


async def test_a_revision_is_forgotten_whole_or_stays_whole(storage: Storage) -> None:
    await storage.write(batch(*(Put(config(f"a{n}"), {"value": n}, Action.CREATE) for n in range(3))))
    await write_at(storage, 1)
    assert await storage.compact(RetentionPolicy(3)) == 0
    assert await storage.compact(RetentionPolicy(2)) == 0, "a part of the first revision is among the newest two"
    assert await storage.compact(RetentionPolicy(1)) == 1
    assert await revisions(storage) == [2]


async def test_age_spares_what_is_not_published(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2)
    late = RetentionPolicy(MANY, NOON + timedelta(hours=1), unpublished=True)
    assert await storage.compact(late) == 0
    async with storage.outbox_lease() as lease:
        await lease.advance(2)
    assert await storage.compact(late) == 2


async def test_more_than_one_step_at_a_time_is_forgotten_to_the_end(storage: Storage) -> None:
    for start in range(0, 5_000, 1_000):
        await storage.write(batch(*(Put(config(f"{start + n}"), {"value": n}, Action.CREATE) for n in range(1_000))))
    await write_at(storage, 1)
    assert await storage.compact(RetentionPolicy(1)) == 5


async def test_quiet_periods_are_the_long_times_between_changes(storage: Storage) -> None:
    assert await storage.quiet_periods(timedelta(minutes=5)) == QuietPeriods(None, ())
    # A clock that went back for one change: silences are in the order of time, not of revisions.
    await write_at(storage, 0, 5, 100, 3, 101, 111)

    def at(minutes: float) -> datetime:
        return NOON + timedelta(minutes=minutes)

    assert await storage.quiet_periods(timedelta(minutes=5)) == QuietPeriods(
        at(111), ((at(5), at(100)), (at(101), at(111)))
    )
    assert await storage.quiet_periods(timedelta(hours=5)) == QuietPeriods(at(111), ())


async def test_the_versions_that_are_left_are_known_though_others_were_forgotten(storage: Storage) -> None:
    ref, other, gone = config("k"), config("other"), config("gone")
    for value in range(3):
        await storage.write(put(ref, value))
    await storage.write(put(gone))
    await storage.write(remove(gone))
    assert await storage.versions(ref) == VersionRange(1, 3)
    await storage.write(put(other))
    await storage.write(put(ref, 3))
    assert await storage.compact(RetentionPolicy(2)) == 5
    assert await storage.versions(ref) == VersionRange(4, 4)
    assert await storage.versions(other) == VersionRange(1, 1)
    assert await storage.versions(gone) == VersionRange(3, 2), "nothing of it is left"
    assert await storage.versions(config("never")) is None
    await storage.compact(RetentionPolicy(1))
    assert await storage.versions(other) == VersionRange(2, 1)
    assert (await storage.search(ChangeQuery(limit=9))).compacted == 6
