"""Compaction of the change log."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which changes compaction keeps: of the newest `changes` those made at `since` or later.

    - `since` None: whatever their age. Clocks of replicas differ, so a change that is older than `since` is still kept if
      an earlier revision is kept.
    - `unpublished`: also keep what the outbox has not published.
    """

    changes: int
    since: datetime | None = None
    unpublished: bool = False


@dataclass(frozen=True, slots=True)
class QuietPeriods:
    """Periods without a change: from one change's time to the next one's, oldest first.

    `newest` is the latest time of a change; None if the log is empty.
    """

    newest: datetime | None
    periods: tuple[tuple[datetime, datetime], ...]


class Compactor(Protocol):
    """Bounds the log."""

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        """The log's quiet periods that are longer than this. Raises `Unavailable`."""
        ...

    async def compact(self, policy: RetentionPolicy) -> int:
        """Deletes the changes that the policy does not keep, oldest first, by whole revisions.

        Returns the compacted revision. Current records stay, whatever their age. Stored request ids are deleted with
        their changes.
        """
        ...
