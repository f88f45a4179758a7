"""Since when this replica can't read the log."""

import logging
from datetime import datetime

from configsvc.clock import Clock

logger = logging.getLogger(__name__)


class Staleness:
    """`since` is None while the log can be read, else when it was last read, or when this replica started."""

    def __init__(self, clock: Clock) -> None:
        self.since: datetime | None = None
        self._current_at = clock.now()

    def mark_current(self, at: datetime) -> None:
        """A read of the log that began at this time has succeeded."""
        self._current_at = at
        if self.since is not None:
            logger.info("the log can be read again; it could not since %s", self.since.isoformat())
            self.since = None

    def mark_stale(self, error: Exception) -> None:
        """The log can't be read."""
        if self.since is None:
            self.since = self._current_at
            logger.error("the log can't be read; reads are answered from memory, marked stale", exc_info=error)
