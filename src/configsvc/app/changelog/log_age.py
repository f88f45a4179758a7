"""How old changes are, when clocks can't be trusted.

A clock that jumps 400 days ahead makes every change 400 days old, and would erase the log. To the log such a jump is a
silence: a long time between two changes, or between the newest one and now. So a silence counts only for as long as this
process has lived through it, by its monotonic clock, and for a tenth of the age to be kept otherwise.

What that costs: a log that is seldom written to while nothing runs is kept longer than its age says. What it gives: one
jump, forwards or back, with restarts or without, makes no change older by more than that tenth.
"""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

from configsvc.clock import Clock
from configsvc.storage.port import Compactor, QuietPeriods

logger = logging.getLogger(__name__)

# Of the age that is kept: what a silence counts for that nobody has lived through.
UNWITNESSED = 1 / 10
# Wall time and monotonic time differ by more between two looks: the wall clock has jumped, or the machine has slept.
JUMP = timedelta(minutes=1)


class LogAge:
    """Says which changes are younger than `keep_age`."""

    def __init__(self, compactor: Compactor, clock: Clock, keep_age: timedelta) -> None:
        self._compactor = compactor
        self._clock = clock
        self._keep_age = keep_age
        self._looked_at, self._looked_at_monotonic = clock.now(), clock.monotonic()
        self._witnessed = timedelta(0)
        self._told: tuple[datetime, datetime] | None = None

    async def oldest_kept(self) -> datetime:
        """Changes from this time on are kept. Raises `Unavailable`."""
        now = self._look()
        unwitnessed = self._keep_age * UNWITNESSED
        quiet = await self._compactor.quiet_periods(unwitnessed)
        left, cursor = self._keep_age, now
        for since, until in _newest_first(quiet, now):
            if cursor - until >= left:
                break
            left -= cursor - until
            lived_through = until - max(since, now - self._witnessed)
            counted = min(until - since, max(unwitnessed, lived_through))
            if counted >= left:
                return until - left
            if counted < until - since:
                self._tell(since, until, counted)
            left, cursor = left - counted, since
        return cursor - left

    def _look(self) -> datetime:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        passed = timedelta(seconds=monotonic - self._looked_at_monotonic)
        jumped = now - self._looked_at - passed
        if abs(jumped) > JUMP:
            logger.warning(
                "the clock has jumped by %s: the log is compacted by the time that has really passed", jumped
            )
            self._witnessed = timedelta(0)
        else:
            self._witnessed += passed
        self._looked_at, self._looked_at_monotonic = now, monotonic
        return now

    def _tell(self, since: datetime, until: datetime, counted: timedelta) -> None:
        if self._told is None or self._told[0] != since:
            logger.warning(
                "no change was made from %s to %s: a silence, or a clock that jumped; it counts as %s of the age that is kept",
                since.isoformat(),
                until.isoformat(),
                counted,
            )
            self._told = (since, until)


def _newest_first(quiet: QuietPeriods, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The silences up to now; the one that lasts comes first. What clocks ahead have written is in nobody's past."""
    if quiet.newest is not None and quiet.newest < now:
        yield quiet.newest, now
    for since, until in reversed(quiet.periods):
        if since < now and quiet.newest is not None:
            yield since, min(until, now)
