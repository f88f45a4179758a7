"""Where the log's history comes from, for operators. /health shows it."""

import logging
from dataclasses import replace

from configsvc.app.changelog.lineage.reconciliation import WHAT_TO_DO
from configsvc.app.changelog.position import LogPosition
from configsvc.clock import Clock, run_within
from configsvc.domain.lineage import HistoryOrigin
from configsvc.errors import ServiceError
from configsvc.storage.port import HistoryAdmin

logger = logging.getLogger(__name__)

# A request for the health of the service waits no longer than this.
READ_SECONDS = 1.0


class HistoryOrigins:
    """Reads the origin once for each history."""

    def __init__(self, storage: HistoryAdmin, position: LogPosition, clock: Clock) -> None:
        self._storage = storage
        self._position = position
        self._clock = clock
        self._last: HistoryOrigin | None = None

    async def get(self) -> HistoryOrigin:
        """The origin of the current history; without a reason if the database can't be read."""
        history = self._position.history
        if self._last is None or self._last.history != history:
            try:
                self._last = await run_within(self._clock, READ_SECONDS, self._read())
            except (ServiceError, TimeoutError) as error:
                logger.debug("the origin of the log's history can't be read now: %s", error)
        if self._last is None or self._last.history != history:
            return HistoryOrigin(history, self._position.since, "", None)
        return _described(self._last)

    async def _read(self) -> HistoryOrigin:
        return await self._storage.history_origin()


def _described(origin: HistoryOrigin) -> HistoryOrigin:
    at = origin.made_at.isoformat(timespec="seconds") if origin.made_at else "some time"
    reason = f"{at}: {origin.reason}"
    # The first history needs no action.
    return replace(origin, reason=f"{reason}. {WHAT_TO_DO}" if origin.since else reason)
