"""Watches: the state, then every change of it, in one queue a watcher.

As in etcd's watchable store, a watcher is in one of two states. A *live* one is fed by the log's tail through a bounded
backlog. One that is *behind* (it resumes at an old revision, or its backlog is full even when conflated) gets nothing
from the tail; it reads the log itself, batch by batch, as fast as its client takes them, until it has caught up. So no
watcher costs more memory than its bound, none loses a change, and none is waited for.

The revision of `Synced`. The pages of a snapshot are read one after the other, each at its own revision, so the watcher
is registered first, and a change that the page of its ref already has is not sent. One page: the snapshot is the state
at its revision. Several pages: changes that came in meanwhile are added to the snapshot, so that it is the state at the
last page's revision. A removal can't be added to a snapshot: with one among them, `Synced` names the first page's
revision, and they follow it as changes. Parts of the snapshot are newer than `Synced` then, and a client that resumes
right there sees changes that it has (a change is news where its revision is above that of the record held).
"""

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import groupby

from configsvc.app.changelog.tail import LogTail
from configsvc.app.watch.watcher import Changed, Selector, Snapshot, Synced, Watcher, WatchEvent
from configsvc.clock import Clock
from configsvc.domain.lineage import LogState
from configsvc.domain.records import Change, Kind, Ref
from configsvc.errors import ResourceExhausted, RevisionOutOfRange, Unavailable
from configsvc.storage.port import Log, Reader, RecordPage
from configsvc.tasks import SupervisedTask, Supervisor

# What a watcher that is behind reads at a time, and holds for itself; at least one revision.
CATCH_UP_CHANGES, CATCH_UP_BYTES = 250, 1 << 20
# What a live watcher may hold, where nobody says otherwise. Those who wait for the same changes share them.
BUFFER_BYTES = 16 << 20
# Reads for watchers under way at the same time: after a restart all clients come at once, and writers need the store.
CONCURRENT_READS = 8
# How long an opening snapshot waits for the tail to reach its last page, for the sake of an exact `Synced`.
TAIL_WAIT_SECONDS = 1.0


class _Known:
    """Which revision of the store each part of a snapshot shows."""

    def __init__(self) -> None:
        # Page i holds the (key, service) up to and including bounds[i]; the last page has no bound.
        self._bounds: list[tuple[str, str]] = []
        self._revisions: list[int] = []

    def add(self, page: RecordPage) -> tuple[str, str] | None:
        """Takes in the next page; returns where the one after it begins, None after the last."""
        self._revisions.append(page.revision)
        if not page.more:
            return None
        last = page.records[-1].ref
        self._bounds.append((last.key, last.service))
        return self._bounds[-1]

    @property
    def first(self) -> int:
        return self._revisions[0]

    @property
    def last(self) -> int:
        return max(self._revisions)

    def has(self, change: Change) -> bool:
        """Whether the snapshot shows this change, or a later state."""
        page = bisect_left(self._bounds, (change.ref.key, change.ref.service))
        return change.revision <= self._revisions[page]


class WatchHub:
    """All watches of this process; a `LogFollower`. `buffer_changes` and `buffer_bytes` bound what is held for one watcher.

    A watcher that has had nothing for `progress_seconds` gets a `Progress`. More than `max_watchers` are refused.
    """

    def __init__(
        self,
        *,
        tail: LogTail,
        reader: Reader,
        log: Log,
        clock: Clock,
        buffer_changes: int,
        progress_seconds: float,
        buffer_bytes: int = BUFFER_BYTES,
        max_watchers: int = 10_000,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._tail = tail
        self._reader = reader
        self._log = log
        self._clock = clock
        self._buffer_changes = buffer_changes
        self._buffer_bytes = buffer_bytes
        self._progress_seconds = progress_seconds
        self._max_watchers = max_watchers
        # By (kind, environment, service), so that a change is shown only to those whom it may concern.
        self._index: dict[tuple[Kind, str, str | None], dict[Watcher, None]] = {}
        self._watchers: set[Watcher] = set()
        # Those that are synced, with the time of their last event; the longest idle first.
        self._idle: OrderedDict[Watcher, float] = OrderedDict()
        # Runs while there are watchers.
        self._ticker: SupervisedTask | None = None
        self._reads = asyncio.Semaphore(CONCURRENT_READS)
        self._conflated = 0
        self._stopped = False
        self._history = tail.history

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    @property
    def conflated(self) -> int:
        """How many changes a newer one of the same ref has replaced in a full backlog, so far."""
        return self._conflated + sum(watcher.backlog.conflated for watcher in self._watchers)

    @property
    def history(self) -> str:
        """The history of the log that all events are of. A watch ends where the log gets another one."""
        return self._tail.history

    async def watch(
        self,
        selector: Selector,
        after_revision: int | None,
        history: str = "",
        *,
        notify_when_live: bool = False,
    ) -> AsyncGenerator[WatchEvent, None]:
        """The events of one watch. Close the generator to end it.

        Without `after_revision`: `Snapshot` in parts, `Synced`, then changes and progress. With it: `Synced` with that
        revision, then every change after it. `history`: the one that `after_revision` is of. Whoever does not say it
        can resume only within the one that the log has. With `notify_when_live`, the watcher gets a `Notified` when it has
        caught up with the log for the first time.

        Raises:
            RevisionOutOfRange: the log has another history (perhaps only now), reason `HISTORY_CHANGED`.
            RevisionOutOfRange: what comes after `after_revision` was compacted away (perhaps only now, since the
                client was slow), or has not happened yet; with `oldest_revision` and `current_revision`.
            ResourceExhausted: there are too many watches, reason `TOO_MANY_WATCHES`.
            Unavailable: the store is away; or this replica shuts down, reason `SHUTTING_DOWN`.
        """
        watcher = self._register(selector)
        # One that resumes takes nothing from the tail until it is known where it stands.
        watcher.behind = after_revision is not None
        if notify_when_live:
            watcher.poke()
        try:
            known: _Known | None = None
            if after_revision is None:
                known = _Known()
                async with aclosing(self._open(watcher, known)) as opening:
                    async for part in opening:
                        yield part
            else:
                await self._check(after_revision, history)
                watcher.resume(after_revision, self._tail.applied)
                yield Synced(after_revision)
            self._idle[watcher] = self._clock.monotonic()
            while True:
                if watcher.behind:
                    async with aclosing(self._catch_up(watcher)) as missed:
                        async for event in missed:
                            if known is None or not known.has(event.change):
                                yield event
                    continue
                live = await watcher.take()
                if live is None:
                    continue
                if isinstance(live, Changed) and known is not None:
                    if known.has(live.change):
                        continue
                    if live.change.revision > known.last:
                        known = None
                yield live
        finally:
            self._unregister(watcher)

    def notify(self, kind: Kind, environment: str, service: str) -> None:
        """Gives each watcher of this a `Notified` in its turn: something beside the log has news for it."""
        for watcher in self._index.get((kind, environment, service), ()):
            watcher.poke()

    def shutdown(self) -> None:
        """Ends all watches with `Unavailable`, reason `SHUTTING_DOWN`, and refuses new ones."""
        self._stopped = True
        for watcher in self._watchers:
            watcher.end(_shutting_down())
        if self._ticker is not None:
            self._ticker.cancel()

    def _register(self, selector: Selector) -> Watcher:
        if self._stopped:
            raise _shutting_down()
        if len(self._watchers) >= self._max_watchers:
            raise ResourceExhausted(f"this replica has {self._max_watchers} watches already", "TOO_MANY_WATCHES")
        watcher = Watcher(selector, self._buffer_changes, self._buffer_bytes, self._tail.applied)
        self._watchers.add(watcher)
        self._index.setdefault((selector.kind, selector.environment, selector.service), {})[watcher] = None
        if self._ticker is None:
            self._ticker = self._supervisor.supervise("watch progress", self._tick, may_return=True)
        return watcher

    def _unregister(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        self._idle.pop(watcher, None)
        self._conflated += watcher.backlog.conflated
        key = (watcher.selector.kind, watcher.selector.environment, watcher.selector.service)
        self._index[key].pop(watcher, None)
        if not self._index[key]:
            del self._index[key]

    async def _check(self, after: int, history: str) -> None:
        if history and history != self._tail.history:
            # Another replica may have told of a history that this one has not met yet.
            await self._tail.catch_up()
        # No history has a revision below 0: that is out of range.
        if history != self._tail.history if history else 0 <= after < self._tail.since:
            raise self._tail.history_changed()
        if after == self._tail.applied:
            # The clients that come back at once, all together, after a short disconnection.
            return
        async with self._reads:
            state = await self._log.state()
        self._check_history(state.history)
        if not state.compacted <= after <= state.head:
            raise _out_of_range(after, state)

    def _check_history(self, read: str) -> None:
        """What was read must be of the history that this watch is of."""
        if self._tail.is_synced and read != self._tail.history:
            self._tail.request_read()
            raise self._tail.history_changed()

    async def _open(self, watcher: Watcher, known: _Known) -> AsyncGenerator[Snapshot | Synced, None]:
        """The snapshot and its mark."""
        after: tuple[str, str] | None = None
        while True:
            async with self._reads:
                page = await self._reader.page(watcher.selector.query(after))
            watcher.check()
            self._check_history(page.history)
            after = known.add(page)
            if page.records:
                yield Snapshot(page.records)
            if after is None:
                break
        if known.last > known.first:
            await self._wait_for_tail(known.last)
        synced = known.first
        if not watcher.behind and (known.last == known.first or self._tail.applied >= known.last):
            late = {
                event.change.ref: event.change.record
                for event in watcher.backlog
                if event.change.revision <= known.last and not known.has(event.change)
            }
            records = tuple(record for record in late.values() if record is not None)
            if len(records) == len(late):
                synced = known.last
                self._drop_backlog(watcher, synced)
                if records:
                    yield Snapshot(records)
        watcher.check()
        watcher.next = max(watcher.next, (synced + 1, 0))
        watcher.told = synced
        yield Synced(synced)

    async def _wait_for_tail(self, revision: int) -> None:
        try:
            await self._tail.wait_for(revision, TAIL_WAIT_SECONDS)
        except Unavailable:
            return

    @staticmethod
    def _drop_backlog(watcher: Watcher, through: int) -> None:
        kept = [event for event in watcher.backlog if event.change.revision > through]
        watcher.backlog.clear()
        for event in kept:
            watcher.backlog.add(event)

    async def _catch_up(self, watcher: Watcher) -> AsyncGenerator[Changed, None]:
        """What the watcher has missed, from the log; it is live when this ends."""
        while watcher.behind:
            changes = await self._read(watcher.next[0] - 1)
            for change, last in _with_last(changes, watcher.selector):
                watcher.check()
                if (change.revision, change.ordinal) < watcher.next:
                    continue
                watcher.next = (change.revision, change.ordinal + 1)
                if watcher.selector.matches(change.ref):
                    yield Changed(change, change is last)
            if changes:
                watcher.next = (changes[-1].revision + 1, 0)
            watcher.caught_up(self._tail.applied)

    async def _read(self, after: int) -> Sequence[Change]:
        async with self._reads:
            try:
                changes = await self._log.read(after, CATCH_UP_CHANGES, CATCH_UP_BYTES)
            except RevisionOutOfRange as error:
                state = await self._log.state()
                self._check_history(state.history)
                raise _out_of_range(after, state) from error
        if changes:
            self._check_history(changes[0].history)
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        """Gives each watcher the changes that its selector matches."""
        now, applied = self._clock.monotonic(), self._tail.applied
        for _, revision in groupby(changes, key=lambda change: change.revision):
            # From the last, which completes the revision for whomever it concerns; then in order.
            told: list[tuple[Watcher, Changed]] = []
            done: set[Watcher] = set()
            for change in reversed(tuple(revision)):
                last, more = Changed(change), Changed(change, completes=False)
                concerned = self._concerned(change.ref)
                told += [(watcher, more if watcher in done else last) for watcher in concerned]
                done.update(concerned)
            for watcher, event in reversed(told):
                watcher.push(event, applied)
                self._touch(watcher, now)

    def _concerned(self, ref: Ref) -> Sequence[Watcher]:
        """The watchers of a record, the latest first."""
        return [
            watcher
            for service in (None, ref.service)
            for watcher in reversed(self._index.get((ref.kind, ref.environment, service), {}))
            if watcher.selector.matches(ref)
        ]

    def reset(self, revision: int) -> None:
        """The tail has skipped changes: each watcher looks for them itself, and learns if they are gone.

        Where the log has another history, all watches end.
        """
        if self._history != self._tail.history:
            self._history = self._tail.history
            for watcher in self._watchers:
                watcher.end(self._tail.history_changed())
            return
        for watcher in self._watchers:
            watcher.fall_behind(self._tail.applied)

    def _touch(self, watcher: Watcher, now: float) -> None:
        if watcher in self._idle:
            self._idle[watcher] = now
            self._idle.move_to_end(watcher)

    async def _tick(self) -> None:
        """Offers progress to each watcher that has been idle for long enough."""
        while self._watchers:
            now = self._clock.monotonic()
            watcher, since = next(iter(self._idle.items()), (None, now))
            due = since + self._progress_seconds
            if watcher is not None and due <= now:
                self._touch(watcher, now)
                watcher.offer_progress(self._tail.applied)
            else:
                await self._clock.sleep(due - now)
        self._ticker = None


def _with_last(changes: Sequence[Change], selector: Selector) -> Iterator[tuple[Change, Change | None]]:
    """Each change with the last one of its revision that is selected. `changes` are of whole revisions."""
    for _, revision in groupby(changes, key=lambda change: change.revision):
        group = tuple(revision)
        last = next((change for change in reversed(group) if selector.matches(change.ref)), None)
        for change in group:
            yield change, last


def _out_of_range(after: int, state: LogState) -> RevisionOutOfRange:
    problem = "has not happened yet" if after > state.head else "was compacted away" if after >= 0 else "is none"
    return RevisionOutOfRange(
        f"revision {after} {problem}; a watch can resume after {state.compacted} to {state.head}",
        metadata={"oldest_revision": str(state.compacted), "current_revision": str(state.head)},
    )


def _shutting_down() -> Unavailable:
    return Unavailable("this replica is shutting down; resume on another", "SHUTTING_DOWN")
