"""The age of changes, if clocks can't be trusted.

If a clock jumps 400 days ahead, every change becomes 400 days old, and compaction by age would delete the whole log. In
the log, such a jump looks like a quiet period: a long time between two changes, or between the newest change and now. So
a quiet period counts only as far as this process observed it on its monotonic clock, and otherwise as at most a tenth of
the age to keep.

The cost: a log with few writes is kept for longer than its age if no process runs. The benefit: a single jump, forward or
back, with or without restarts, makes no change older by more than that tenth.
"""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

from configsvc.clock import Clock
from configsvc.storage.port import Compactor, QuietPeriods

logger = logging.getLogger(__name__)

# The part of the age to keep that a quiet period counts as, if no process observed it.
UNOBSERVED_PART = 1 / 10
# If wall time and monotonic time since the last measurement differ by more, the wall clock jumped or the machine slept.
JUMP = timedelta(minutes=1)


class LogAge:
    """Tells which changes are younger than `keep_age`."""

    def __init__(self, compactor: Compactor, clock: Clock, keep_age: timedelta) -> None:
        self._compactor = compactor
        self._clock = clock
        self._keep_age = keep_age
        self._measured_at, self._measured_at_monotonic = clock.now(), clock.monotonic()
        # The time up to now that this process observed without a jump.
        self._observed = timedelta(0)
        self._logged_since: datetime | None = None

    async def oldest_kept(self) -> datetime:
        """Changes from this time on are kept. Raises `Unavailable`."""
        now = self._measure()
        unobserved = self._keep_age * UNOBSERVED_PART
        quiet = await self._compactor.quiet_periods(unobserved)
        # Goes back from now, and subtracts what counts until the age to keep is used up.
        left, cursor = self._keep_age, now
        for since, until in _newest_first(quiet, now):
            if cursor - until >= left:
                break
            left -= cursor - until
            observed = until - max(since, now - self._observed)
            counted = min(until - since, max(unobserved, observed))
            if counted >= left:
                return until - left
            if counted < until - since:
                self._log_quiet_period(since, until, counted)
            left, cursor = left - counted, since
        return cursor - left

    def _measure(self) -> datetime:
        """The wall time now. Notices a jump since the last measurement."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        elapsed = timedelta(seconds=monotonic - self._measured_at_monotonic)
        jump = now - self._measured_at - elapsed
        if abs(jump) > JUMP:
            logger.warning("the clock has jumped by %s: the log is compacted by the time that really passed", jump)
            self._observed = timedelta(0)
        else:
            self._observed += elapsed
        self._measured_at, self._measured_at_monotonic = now, monotonic
        return now

    def _log_quiet_period(self, since: datetime, until: datetime, counted: timedelta) -> None:
        """Once for each quiet period."""
        if self._logged_since == since:
            return
        logger.warning(
            "no change was made from %s to %s: a quiet period, or a clock that jumped; it counts as %s of the age to keep",
            since.isoformat(),
            until.isoformat(),
            counted,
        )
        self._logged_since = since


def _newest_first(quiet: QuietPeriods, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The quiet periods up to now; the one that still lasts comes first. Changes from clocks that are ahead don't count."""
    if quiet.newest is not None and quiet.newest < now:
        yield quiet.newest, now
    for since, until in reversed(quiet.periods):
        if since < now and quiet.newest is not None:
            yield since, min(until, now)
