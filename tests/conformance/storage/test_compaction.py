"""What `storage/port` promises of compaction."""

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


async def test_compaction_keeps_the_newest_changes(storage: Storage) -> None:
    await write_at(storage, *range(10))
    assert await storage.compact(RetentionPolicy(4)) == 6
    assert await revisions(storage) == [7, 8, 9, 10]
    with pytest.raises(RevisionOutOfRange):
        await storage.read(5, 100)
    assert await storage.compact(RetentionPolicy(4)) == 6


async def test_change_that_is_too_old_is_deleted_although_few_are_stored(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2, 3, 4)
    assert await storage.compact(RetentionPolicy(MANY, NOON + timedelta(minutes=2))) == 2
    assert await revisions(storage) == [3, 4, 5]


async def test_number_and_age_each_bound_the_log(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2, 3, 4)
    assert await storage.compact(RetentionPolicy(4, NOON)) == 1
    assert await storage.compact(RetentionPolicy(4, NOON + timedelta(minutes=3))) == 3


async def test_compaction_of_the_whole_log_keeps_records(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2)
    assert await storage.compact(RetentionPolicy(MANY, NOON + timedelta(hours=1))) == 3
    assert await revisions(storage) == []
    view = await storage.get([config(f"key-{number}") for number in range(3)])
    assert len(view.records) == 3
    assert (await storage.write(put(config("next")))).revision == 4
    assert await revisions(storage) == [4]


async def test_old_change_after_a_kept_one_is_kept(storage: Storage) -> None:
    await write_at(storage, 10, 0, 11)
    assert await storage.compact(RetentionPolicy(MANY, NOON + timedelta(minutes=5))) == 0
    assert await revisions(storage) == [1, 2, 3]


async def test_compaction_does_not_split_a_revision(storage: Storage) -> None:
    await storage.write(batch(*(Put(config(f"a{n}"), {"value": n}, Action.CREATE) for n in range(3))))
    await write_at(storage, 1)
    assert await storage.compact(RetentionPolicy(3)) == 0
    assert await storage.compact(RetentionPolicy(2)) == 0, "one of the newest two changes belongs to revision 1"
    assert await storage.compact(RetentionPolicy(1)) == 1
    assert await revisions(storage) == [2]


async def test_compaction_by_age_keeps_unpublished_changes(storage: Storage) -> None:
    await write_at(storage, 0, 1, 2)
    policy = RetentionPolicy(MANY, NOON + timedelta(hours=1), unpublished=True)
    assert await storage.compact(policy) == 0
    async with storage.outbox_lease() as lease:
        await lease.advance(2)
    assert await storage.compact(policy) == 2


async def test_compaction_goes_on_until_all_batches_are_deleted(storage: Storage) -> None:
    for start in range(0, 5_000, 1_000):
        await storage.write(batch(*(Put(config(f"{start + n}"), {"value": n}, Action.CREATE) for n in range(1_000))))
    await write_at(storage, 1)
    assert await storage.compact(RetentionPolicy(1)) == 5


async def test_quiet_periods_are_ordered_by_time_and_not_by_revision(storage: Storage) -> None:
    assert await storage.quiet_periods(timedelta(minutes=5)) == QuietPeriods(None, ())
    # The fourth change was written with a clock that was behind.
    await write_at(storage, 0, 5, 100, 3, 101, 111)

    def at(minutes: float) -> datetime:
        return NOON + timedelta(minutes=minutes)

    assert await storage.quiet_periods(timedelta(minutes=5)) == QuietPeriods(
        at(111), ((at(5), at(100)), (at(101), at(111)))
    )
    assert await storage.quiet_periods(timedelta(hours=5)) == QuietPeriods(at(111), ())


async def test_version_range_after_compaction(storage: Storage) -> None:
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
    assert await storage.versions(gone) == VersionRange(3, 2), "all of its changes were compacted away"
    assert await storage.versions(config("never")) is None
    await storage.compact(RetentionPolicy(1))
    assert await storage.versions(other) == VersionRange(2, 1)
    assert (await storage.search(ChangeQuery(limit=9))).compacted == 6
