"""The one reader of the change log in this process: every follower of the log listens here.

Three things wake it: this replica's own commits (applied at once where they are the next revision, without a read),
the bus saying "the log reached N", and the poll, which is the floor (DESIGN, law 3). Whatever woke it, what it hands on
comes from the log or from a commit of this replica, in revision order, whole revisions, without a gap.

EventQueues run on the event loop, between two awaits: nobody ever sees a state in which one listener is ahead of another,
or of `applied`.
"""

import asyncio
import contextlib
import logging
import random
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from itertools import count
from types import TracebackType
from typing import Protocol, Self

from configsvc.app.changelog.early_commits import EarlyCommits
from configsvc.app.changelog.follower import LogFollower
from configsvc.app.changelog.lineage import LogMark, compared
from configsvc.bus.port import Bus
from configsvc.clock import Clock, wait_within
from configsvc.domain.lineage import Checkpoint, LogState, history_changed
from configsvc.domain.records import Change, Commit
from configsvc.errors import RevisionOutOfRange, Unavailable
from configsvc.storage.port import Log, ResumableLog
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# One read, and so one uninterrupted round of the listeners. A thousand watchers take about a millisecond a change.
READ_CHANGES = 100
# How long anyone waits for news before saying that something does not exist.
NEWS_SECONDS = 1.0
# The longest pause between two tries at a log that can't be read: a recovery is noticed at most this late.
LONGEST_PAUSE_SECONDS = 5.0


class FollowedLog(Log, ResumableLog, Protocol):
    """What the tail needs of the storage."""


class _Latch:
    """A wake-up that is kept until it is taken."""

    _future: asyncio.Future[None] | None = None

    def arm(self) -> None:
        """Forgets earlier wake-ups."""
        self._future = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def within(self, clock: Clock, seconds: float) -> bool:
        """Whether it was released since `arm`, or is, before `seconds` have passed."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        return await wait_within(clock, seconds, self._future)


class LogTail:
    """Follows the log from its head at the time of entering.

    `applied` is the revision up to which every listener has been told everything: whoever subscribes and then loads
    its state at a revision at or above `applied` misses nothing.

    `history` is that of the log, and `since` the revision at which it began. Where the log has another one, every
    listener is reset. Before the log was read for the first time it is what the shared cache says, or empty.

    `stale_since` is set while the log can't be read: the last time when it could, or the start.
    """

    def __init__(
        self,
        *,
        log: FollowedLog,
        bus: Bus,
        clock: Clock,
        poll_seconds: float,
        mark: LogMark | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._log = log
        self._mark = mark or LogMark(None, clock)
        self._bus = bus
        self._clock = clock
        self._poll_seconds = poll_seconds
        self.applied = 0
        self.history = ""
        self.since = 0
        self._digest = ""
        self.stale_since: datetime | None = None
        self._begun = asyncio.Event()
        self._current_at = clock.now()
        self._followers: list[LogFollower] = []
        self._early = EarlyCommits()
        # In the order of revision; the number tells equal revisions apart.
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._hint = 0
        self._wake = _Latch()
        self._alive = _Latch()
        self._tasks: list[SupervisedTask] = []
        self._messages: AsyncIterator[int] | None = None
        self._closed = False
        # The look at the head that has not begun yet: whoever asks now shares it.
        self._next_look: asyncio.Task[int] | None = None
        self._looking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Starts at the head of the log; where that can't be read, stale at 0, and at the head as soon as it can."""
        self._messages = self._bus.subscribe()
        try:
            await self._begin()
        except Unavailable as error:
            self._mark_stale(error)
            if (mark := await self._mark.find()) is not None:
                self.history = mark.history
        self._tasks = [
            self._supervisor.supervise("log tail", self._follow),
            self._supervisor.supervise("log tail's bus", self._listen),
        ]
        if self._mark.is_kept:
            self._tasks.append(
                self._supervisor.supervise(
                    "log tail's mark", lambda: self._mark.keep(lambda: self.checkpoint, self._compare)
                )
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await asyncio.gather(*(task.stop() for task in self._tasks))
        self._tasks = []
        for _, _, future in self._waiting:
            if not future.done():
                future.set_result(None)

    @property
    def checkpoint(self) -> Checkpoint:
        """The place in the log up to which everything is applied; nowhere before the log was read."""
        return Checkpoint(self.history if self.is_synced else "", self.applied, self._digest)

    def history_changed(self) -> RevisionOutOfRange:
        """The error for what is of another history."""
        return history_changed(self.history, self.since, self.applied)

    def subscribe(self, follower: LogFollower) -> Callable[[], None]:
        """From now on applies every change to `follower`, before `applied` advances to it. Returns how to unsubscribe.

        Followers take in a change in the order in which they subscribed. A follower is reset if the log was compacted
        beyond `applied`, if the log has another history, or if the follower raised an exception. At that moment
        `applied` still has the old value, and `history` the new one.
        """
        self._followers.append(follower)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._followers.remove(follower)

        return unsubscribe

    def on_commit(self, commit: Commit) -> None:
        """Takes in a write of this replica, and announces it. Calls may come in any order of revision."""
        if commit.changes and not commit.replayed:
            self._bus.announce(commit.changes)
            if commit.history != self.history:
                # The log has another history; it is read before anything of it is taken in.
                self.request_read()
            elif commit.revision == self.applied + 1:
                self._apply(commit.changes)
                # The log has just taken a write, and there is nothing that we have not seen.
                self._mark_current(self._clock.now())
                self._alive.release()
            elif commit.revision > self.applied:
                self._early.keep(commit)
        self._expect(commit.revision)

    @property
    def is_synced(self) -> bool:
        """Whether the log has been read since the start."""
        return self._begun.is_set()

    async def wait_synced(self) -> None:
        """Returns when it has been."""
        await self._begun.wait()

    async def wait_for(self, revision: int, timeout_seconds: float | None) -> None:
        """Returns when `revision` is applied.

        Raises:
            Unavailable: it was not within `timeout_seconds` (None: no limit), reason `REVISION_NOT_REACHED`, with
                `applied` and `required` in the metadata; or the tail was closed, reason `SHUTTING_DOWN`.
        """
        if self.applied < revision and not self._closed:
            future = asyncio.get_running_loop().create_future()
            entry = (revision, next(self._numbers), future)
            insort(self._waiting, entry)
            try:
                self._expect(revision)
                await wait_within(self._clock, timeout_seconds, future)
            finally:
                place = bisect_left(self._waiting, entry)
                if place < len(self._waiting) and self._waiting[place] is entry:
                    del self._waiting[place]
        if self.applied >= revision:
            return
        if self._closed:
            raise Unavailable("this replica is shutting down", "SHUTTING_DOWN")
        raise Unavailable(
            f"revision {revision} is not applied here yet, only {self.applied}",
            "REVISION_NOT_REACHED",
            {"applied": str(self.applied), "required": str(revision)},
        )

    async def catch_up(self) -> bool:
        """Applies what was committed before the call, by any replica; returns whether there was anything.

        For whoever is about to say that something does not exist: missing here never means missing. Where the log can't
        be read, or not in a moment, there is no news; answers are marked stale then.
        """
        if self.stale_since is not None:
            return False
        before = self.applied
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look(), name="log-look")
            # Its error is every waiter's; where all of them have gone, it is nobody's.
            self._next_look.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            async with asyncio.timeout(NEWS_SECONDS):
                await self.wait_for(await asyncio.shield(self._next_look), None)
        except (Unavailable, TimeoutError):
            logger.debug("nobody knows whether there is news", exc_info=True)
        return self.applied > before

    async def _look(self) -> int:
        """The head of the log. One look at a time; those who ask meanwhile share the next one."""
        async with self._looking:
            self._next_look = None
            state = await self._log.state()
            if state.history != self.history or state.head < self.applied:
                self.request_read()
                return max(state.head, self.applied + 1)
            return state.head

    def request_read(self) -> None:
        """Something was read or refused that does not fit what is known here: the log is looked at, whatever it reaches."""
        self._hint = max(self._hint, self.applied + 1)
        self._wake.release()

    def mark_stale(self, error: Exception) -> None:
        """A read of the store has failed: what is answered from now on is stale, until the log can be read again."""
        self._mark_stale(error)
        self._wake.release()

    def _expect(self, revision: int) -> None:
        """The log is said to reach `revision`: read, where that is news."""
        if revision > self.applied:
            self._hint = max(self._hint, revision)
            self._wake.release()

    async def _listen(self) -> None:
        # The first time from before the log was read; after a failure from then on, and the poll finds what was missed.
        messages, self._messages = self._messages or self._bus.subscribe(), None
        async for revision in messages:
            self._expect(revision)

    async def _follow(self) -> None:
        failures = 0
        while True:
            self._wake.arm()
            self._alive.arm()
            self._hint = 0
            try:
                await self._read()
            except Exception as error:
                failures += 1
                self._mark_stale(error)
                longest = min(self._poll_seconds * 2**failures, LONGEST_PAUSE_SECONDS)
                # Jitter, so that a fleet does not come back at once. Only an own commit ends the pause early: it shows
                # that the database is there, which a message on the bus does not.
                await self._alive.within(self._clock, random.uniform(longest / 2, longest))
                continue
            failures = 0
            while await self._wake.within(self._clock, self._poll_seconds) and self._hint <= self.applied:
                self._wake.arm()

    async def _read(self) -> None:
        """Reads the log to its end."""
        if not self.is_synced:
            await self._begin()
        more = True
        while more:
            began, seen = self._clock.now(), self.checkpoint
            page = await self._log.resume(seen, READ_CHANGES)
            if page.state.history != seen.history or not page.continues(seen):
                await self._turn(seen)
                continue
            changes = page.changes
            if seen.revision < page.state.compacted:
                await self._skip()
                changes = ()
            self._mark_current(began)
            # Own commits may have been applied while the read was on its way.
            fresh = [change for change in changes if change.revision > self.applied]
            if fresh:
                self._apply(fresh)
            # A read may end early, by bytes.
            more = bool(changes) and self.applied < page.state.head

    async def _begin(self) -> None:
        """Goes to the head. Whoever listens already has seen nothing, and loads its state."""
        began = self._clock.now()
        mark = await self._mark.find()
        state = await self._log.state() if mark is None else await compared(self._log, mark)
        self._go_to(state)
        self._begun.set()
        self._mark_current(began)

    async def _turn(self, seen: Checkpoint) -> None:
        """Goes to the head of a log that has another history, or has to get one. Nothing of before is of use."""
        state = await compared(self._log, seen)
        if state.history == seen.history:
            raise Unavailable("the database that was read lags behind the one that is written", "LOG_LAGS")
        logger.warning("the log has the history %s; all listeners reload at %d", state.history, state.head)
        self._early.clear()
        self._go_to(state)

    async def _compare(self, mark: Checkpoint) -> None:
        """A replica has left a mark beyond `applied`."""
        if mark.history != self.history or (await compared(self._log, mark)).history != self.history:
            self.request_read()

    def _go_to(self, state: LogState) -> None:
        self.history, self.since = state.history, state.since
        for follower in tuple(self._followers):
            self._reset(follower, state.head)
        self._digest = state.digest
        self._advance(max(state.head, self.applied))

    async def _skip(self) -> None:
        """Goes to the head of a log that has forgotten where we are."""
        state = await self._log.state()
        if state.history != self.history or state.head < self.applied or state.compacted <= self.applied:
            # It is another log, or an own commit was applied meanwhile.
            return
        logger.warning("the log no longer has revision %d; all listeners reload at %d", self.applied, state.head)
        self._go_to(state)

    def _apply(self, changes: Sequence[Change]) -> None:
        while True:
            for follower in tuple(self._followers):
                try:
                    follower.apply(changes)
                except Exception:
                    logger.exception("a follower of the log failed on revision %d and is reset", changes[-1].revision)
                    self._reset(follower, changes[-1].revision)
            self._digest = changes[-1].digest
            self._advance(changes[-1].revision)
            early = self._early.take(self.applied + 1)
            if early is None:
                return
            changes = early

    def _reset(self, follower: LogFollower, revision: int) -> None:
        try:
            follower.reset(revision)
        except Exception:
            logger.exception("a follower of the log failed to reset at revision %d", revision)

    def _advance(self, revision: int) -> None:
        self.applied = revision
        self._mark.moved()
        self._early.forget_through(revision)
        reached = bisect_left(self._waiting, revision + 1, key=lambda waiting: waiting[0])
        for _, _, future in self._waiting[:reached]:
            if not future.done():
                future.set_result(None)
        del self._waiting[:reached]

    def _mark_current(self, at: datetime) -> None:
        self._current_at = at
        if self.stale_since is not None:
            logger.info("the log can be read again; it could not since %s", self.stale_since.isoformat())
            self.stale_since = None

    def _mark_stale(self, error: Exception) -> None:
        if self.stale_since is None:
            self.stale_since = self._current_at
            logger.error("the log can't be read; reads go on from memory, marked stale", exc_info=error)
