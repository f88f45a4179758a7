"""The age of changes, on clocks that jump: one jump deletes no young change."""

import logging
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.app.changelog.log_age import UNOBSERVED_PART, LogAge
from configsvc.domain.records import Action, Author, Kind, Put, Ref, Write
from configsvc.storage.port import RetentionPolicy, Storage
from tests.app.fake_clock import FakeClock
from tests.app.replica import open_storage

KEEP = timedelta(days=30)
DAY = 86_400.0


class JumpingClock(FakeClock):
    """Its wall time can be set; its monotonic time can't."""

    jumped = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.jumped

    def jump(self, days: float) -> None:
        self.jumped += timedelta(days=days)


async def write(storage: Storage, clock: FakeClock) -> None:
    ref = Ref(Kind.CONFIG, "test", "", "key")
    put = Put(ref, {"value": 1}, Action.UPDATE)
    await storage.write(Write(Author("tester", "", "", clock.now()), (ref,), lambda view: (put,)))


async def compact(storage: Storage, age: LogAge) -> int:
    return await storage.compact(RetentionPolicy(1_000_000, await age.oldest_kept()))


async def write_daily(storage: Storage, clock: FakeClock, days: int) -> None:
    """One change a day."""
    for _ in range(days):
        await write(storage, clock)
        await clock.advance(DAY)


async def test_changes_beyond_the_age_are_compacted_if_the_clock_is_right(storage: Storage) -> None:
    clock = JumpingClock()
    await write_daily(storage, clock, 40)
    assert await compact(storage, LogAge(storage, clock, KEEP)) == 10


@pytest.mark.parametrize("days", [400, 31, -400])
@pytest.mark.parametrize("writes_after", [0, 1, 5])
async def test_jump_of_the_clock_deletes_no_young_change(
    storage: Storage, days: float, writes_after: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = JumpingClock()
    age = LogAge(storage, clock, KEEP)
    await write_daily(storage, clock, 20)
    assert await compact(storage, age) == 0
    clock.jump(days)
    with caplog.at_level(logging.WARNING):
        assert await compact(storage, age) == 0
    assert "the clock has jumped" in caplog.text
    await write_daily(storage, clock, writes_after)
    assert await compact(storage, age) == 0
    # Restarted on the wrong clock, and then corrected.
    assert await compact(storage, LogAge(storage, clock, KEEP)) == 0
    clock.jump(-days)
    assert await compact(storage, age) == 0
    assert await compact(storage, LogAge(storage, clock, KEEP)) == 0


async def test_repeated_jumps_delete_no_young_change(storage: Storage) -> None:
    clock = JumpingClock()
    age = LogAge(storage, clock, KEEP)
    await write_daily(storage, clock, 5)
    for days in (400, -400, 400):
        clock.jump(days)
        await write_daily(storage, clock, 2)
        assert await compact(storage, age) == 0


async def test_quiet_period_that_the_process_observed_counts_in_full(storage: Storage) -> None:
    clock = JumpingClock()
    age = LogAge(storage, clock, KEEP)
    await write(storage, clock)
    for _ in range(29):
        await clock.advance(DAY)
        assert await compact(storage, age) == 0
    await clock.advance(2 * DAY)
    assert await compact(storage, age) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hours=st.lists(st.floats(0.1, 200), min_size=1, max_size=12),
    jump_at=st.integers(0, 11),
    jump_days=st.floats(-1_000, 1_000),
    restarts=st.booleans(),
)
async def test_changes_younger_than_nine_tenths_of_the_age_are_kept(
    tmp_path_factory: pytest.TempPathFactory, hours: list[float], jump_at: int, jump_days: float, restarts: bool
) -> None:
    clock = JumpingClock()
    async with open_storage(tmp_path_factory.mktemp("age")) as storage:
        age = LogAge(storage, clock, KEEP)
        written: list[float] = []
        for number, pause in enumerate(hours):
            if number == jump_at:
                clock.jump(jump_days)
            await write(storage, clock)
            written.append(clock.monotonic())
            await clock.advance(pause * 3_600)
            compacted = await compact(storage, LogAge(storage, clock, KEEP) if restarts else age)
            young = KEEP.total_seconds() * (1 - UNOBSERVED_PART)
            deleted = written[:compacted]
            assert all(clock.monotonic() - at >= young for at in deleted)
