"""Reads the log from where this replica has applied it, and notices if it is not the same log any more."""

import asyncio
import logging
from typing import Protocol

from configsvc.app.changelog.lineage.reconciliation import reconcile
from configsvc.app.changelog.lineage.shared_checkpoint import SharedCheckpoint
from configsvc.app.changelog.reading.applier import LogApplier
from configsvc.app.changelog.reading.staleness import Staleness
from configsvc.clock import Clock
from configsvc.domain.lineage import Checkpoint
from configsvc.errors import Unavailable
from configsvc.single_flight import SingleFlight
from configsvc.storage.port import Log, ResumableLog

logger = logging.getLogger(__name__)

# One read, and so one uninterrupted round of the followers. A thousand watchers take about a millisecond a change.
READ_CHANGES = 100


class TailLog(Log, ResumableLog, Protocol):
    """What the tail needs of the storage."""


class LogReader:
    """Gives the applier what it reads. Every method raises `Unavailable` if the log can't be read."""

    def __init__(
        self, log: TailLog, applier: LogApplier, staleness: Staleness, shared_checkpoint: SharedCheckpoint, clock: Clock
    ) -> None:
        self._log = log
        self._applier = applier
        self._staleness = staleness
        self._shared_checkpoint = shared_checkpoint
        self._clock = clock
        self._head_reads = SingleFlight[None, int]("log head")
        self._head_lock = asyncio.Lock()

    async def sync(self) -> None:
        """Goes to the head for the first time. Followers that have subscribed load their state at it."""
        started_at = self._clock.now()
        checkpoint = await self._shared_checkpoint.get()
        state = await self._log.state() if checkpoint is None else await reconcile(self._log, checkpoint)
        self._applier.reset_to(state)
        self._staleness.mark_current(started_at)

    async def read_page(self) -> bool:
        """Applies the next changes of the log; returns whether there may be more."""
        started_at, seen = self._clock.now(), self._applier.checkpoint
        page = await self._log.resume(seen, READ_CHANGES)
        if page.state.history != seen.history or not page.continues(seen):
            await self._switch_history(seen)
            return True
        if seen.revision < page.state.compacted:
            await self._skip_compacted()
            self._staleness.mark_current(started_at)
            return False
        self._staleness.mark_current(started_at)
        # Own commits may have been applied during the read.
        new_changes = [change for change in page.changes if change.revision > self._applier.applied]
        if new_changes:
            self._applier.apply(new_changes)
        # A page is also bounded in bytes, so it may end before the head.
        return bool(page.changes) and self._applier.applied < page.state.head

    async def head(self) -> int:
        """The newest revision; one above `applied` if the log does not fit what was applied, and so has to be read.

        There is one read at a time. Callers that come during a read share the next one: the read that is under way may
        have missed a commit that was made before they called.
        """
        return await self._head_reads.run(None, self._read_head)

    async def _read_head(self) -> int:
        async with self._head_lock:
            self._head_reads.forget(None)
            state = await self._log.state()
            if state.history != self._applier.history or state.head < self._applier.applied:
                return self._applier.applied + 1
            return state.head

    async def continues(self, checkpoint: Checkpoint) -> bool:
        """Whether the log has the checkpoint in the history that was applied. If not, the log has to be read."""
        history = self._applier.history
        return checkpoint.history == history and (await reconcile(self._log, checkpoint)).history == history

    async def _switch_history(self, seen: Checkpoint) -> None:
        """Goes to the head of a log that has another history, or gets one now. Nothing from before can be used."""
        state = await reconcile(self._log, seen)
        if state.history == seen.history:
            raise Unavailable("the database that was read lags behind the one that is written", "LOG_LAGS")
        logger.warning("the log has the history %s; all followers reload at %d", state.history, state.head)
        self._applier.reset_to(state)

    async def _skip_compacted(self) -> None:
        """Goes to the head of a log that was compacted beyond `applied`."""
        state, applied = await self._log.state(), self._applier.applied
        if state.history != self._applier.history or state.head < applied or state.compacted <= applied:
            # The history has changed, or an own commit was applied meanwhile: the next read finds out.
            return
        logger.warning("the log no longer has revision %d; all followers reload at %d", applied, state.head)
        self._applier.reset_to(state)
