"""The one reader of the change log in this process. It applies every change to the followers of the log.

Three things make it read: a commit of this replica (applied at once, without a read, if it is the next revision), an
announcement on the bus that the log has reached a revision, and the poll, which bounds the delay if announcements are
lost (docs/architecture.md, law 3). In each case the followers get whole revisions, in order, without a gap.

Followers run on the event loop, between two awaits. So no task sees a follower that is ahead of another one, or of
`applied`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from configsvc.app.changelog.follower import LogFollower
from configsvc.app.changelog.lineage.shared_checkpoint import SharedCheckpoint
from configsvc.app.changelog.reading.applier import LogApplier
from configsvc.app.changelog.reading.log_reader import LogReader, TailLog
from configsvc.app.changelog.reading.staleness import Staleness
from configsvc.backoff import Backoff
from configsvc.bus.port import Bus
from configsvc.clock import Clock, run_within, wait_for_event
from configsvc.domain.lineage import Checkpoint, history_changed
from configsvc.domain.records import Commit
from configsvc.errors import RevisionOutOfRange, Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# How long a reader waits for `catch_up` before it answers that something does not exist.
CATCH_UP_SECONDS = 1.0
# The longest pause between two attempts to read a log that can't be read: a recovery is noticed at most this late.
LONGEST_PAUSE_SECONDS = 5.0


class LogTail:
    """Follows the log from its head at the time of entering.

    Code that subscribes first, and then loads its state at `applied` or above, misses nothing. If the log gets another
    history, every follower is reset.
    """

    def __init__(
        self,
        *,
        log: TailLog,
        bus: Bus,
        clock: Clock,
        poll_seconds: float,
        shared_checkpoint: SharedCheckpoint | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._bus = bus
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._shared_checkpoint = shared_checkpoint or SharedCheckpoint(None, clock)
        self._applier = LogApplier(clock, self._shared_checkpoint)
        self._staleness = Staleness(clock)
        self._reader = LogReader(log, self._applier, self._staleness, self._shared_checkpoint, clock)
        # The highest revision that the log is said to have reached, since the last read began.
        self._announced = 0
        self._read_requested = asyncio.Event()
        self._committed = asyncio.Event()
        self._announcements: AsyncIterator[int] | None = None
        self._tasks: list[SupervisedTask] = []

    async def __aenter__(self) -> Self:
        """Starts at the head of the log. If the log can't be read, starts stale at 0, and moves to the head later."""
        self._announcements = self._bus.subscribe()
        try:
            await self._reader.sync()
        except Unavailable as error:
            self._staleness.mark_stale(error)
            if (checkpoint := await self._shared_checkpoint.get()) is not None:
                self._applier.history = checkpoint.history
        work = {"log tail": self._follow, "log announcements": self._receive_announcements}
        if self._shared_checkpoint.is_enabled:
            work["log checkpoint"] = self._exchange_checkpoints
        self._tasks = [self._supervisor.supervise(name, run) for name, run in work.items()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(task.stop() for task in self._tasks))
        self._tasks = []
        self._applier.waiters.close()

    @property
    def applied(self) -> int:
        """The revision up to which every follower has taken in everything."""
        return self._applier.applied

    @property
    def history(self) -> str:
        """The log's history; before the log was read, that of the shared checkpoint, or empty."""
        return self._applier.history

    @property
    def since(self) -> int:
        """The revision at which that history began."""
        return self._applier.since

    @property
    def checkpoint(self) -> Checkpoint:
        """The place up to which everything is applied; without a history before the log was read."""
        return self._applier.checkpoint

    @property
    def stale_since(self) -> datetime | None:
        """Set while the log can't be read: when it was last read, or the start of this replica."""
        return self._staleness.since

    @property
    def is_synced(self) -> bool:
        """Whether the log has been read since the start."""
        return self._applier.synced.is_set()

    async def wait_synced(self) -> None:
        """Returns when the log has been read."""
        await self._applier.synced.wait()

    def history_changed(self) -> RevisionOutOfRange:
        """The error for a request that refers to another history."""
        return history_changed(self.history, self.since, self.applied)

    def subscribe(self, follower: LogFollower) -> Callable[[], None]:
        """From now on applies every change to `follower`, before `applied` advances to it. Returns how to unsubscribe.

        Followers take in a change in the order in which they subscribed. A follower is reset if the log was compacted
        beyond `applied`, if the log has another history, or if the follower raised an exception. At that moment
        `applied` still has the old value, and `history` the new one.
        """
        return self._applier.followers.add(follower)

    def on_commit(self, commit: Commit) -> None:
        """Applies and announces a write of this replica. Calls may come in any order of revision."""
        if commit.changes and not commit.replayed:
            self._bus.announce(commit.changes)
            if commit.history != self.history:
                # The log has another history, and is read before any change of that history is applied.
                self.request_read()
            elif self._applier.apply_commit(commit):
                # The log has just taken a write, and this replica has applied everything in it.
                self._staleness.mark_current(self._clock.now())
                self._committed.set()
        self._expect(commit.revision)

    async def wait_for(self, revision: int, timeout_seconds: float | None) -> None:
        """Returns when `revision` is applied.

        Raises:
            Unavailable: it was not within `timeout_seconds` (None: no limit), reason `REVISION_NOT_REACHED`, with
                `applied` and `required` in the metadata; or the tail was closed, reason `SHUTTING_DOWN`.
        """
        self._expect(revision)
        await self._applier.waiters.wait(revision, timeout_seconds)

    async def catch_up(self) -> bool:
        """Applies what any replica committed before the call; returns whether there was anything.

        Readers call it before they answer that something does not exist. If the log can't be read, or not within
        `CATCH_UP_SECONDS`, it returns without an error; answers are marked stale then.
        """
        if self.stale_since is not None:
            return False
        applied_before = self.applied
        try:
            await run_within(self._clock, CATCH_UP_SECONDS, self._apply_to_head())
        except (Unavailable, TimeoutError):
            logger.debug("the head of the log can't be read now", exc_info=True)
        return self.applied > applied_before

    async def _apply_to_head(self) -> None:
        await self.wait_for(await self._reader.head(), None)

    def request_read(self) -> None:
        """Makes the tail read the log soon, although no new revision was announced.

        Call it if something was read or refused that does not fit what is known of the log.
        """
        self._expect(self.applied + 1)

    def mark_stale(self, error: Exception) -> None:
        """A read of the store has failed: answers are stale until the log can be read again."""
        self._staleness.mark_stale(error)

    def _expect(self, revision: int) -> None:
        """The log is said to have reached `revision`."""
        if revision > self.applied:
            self._announced = max(self._announced, revision)
            self._read_requested.set()

    async def _receive_announcements(self) -> None:
        # The first run uses the subscription from before the log was read. After a failure there is a new subscription,
        # and the poll finds what was missed.
        announcements, self._announcements = self._announcements or self._bus.subscribe(), None
        async for revision in announcements:
            self._expect(revision)

    async def _follow(self) -> None:
        backoff = Backoff(min(2 * self._poll_seconds, LONGEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        while True:
            self._read_requested.clear()
            self._committed.clear()
            self._announced = 0
            try:
                await self._read_to_head()
            except Exception as error:
                self._staleness.mark_stale(error)
                # Only an own commit ends the pause early: it shows that the database can be reached. A message on the
                # bus does not show that.
                await wait_for_event(self._clock, backoff.next(), self._committed)
                continue
            backoff.reset()
            while (
                await wait_for_event(self._clock, self._poll_seconds, self._read_requested)
                and self._announced <= self.applied
            ):
                self._read_requested.clear()

    async def _read_to_head(self) -> None:
        if not self.is_synced:
            await self._reader.sync()
        while await self._reader.read_page():
            pass

    async def _exchange_checkpoints(self) -> None:
        await self._shared_checkpoint.exchange(self._compare_with)

    async def _compare_with(self, newer: Checkpoint) -> None:
        """Another replica has seen a later revision than `applied`, perhaps of another history."""
        if not await self._reader.continues(newer):
            self.request_read()
