"""Watches: the state, then every change of it, in one queue for each watcher.

As in etcd's watchable store, a watcher is either live or behind. The log's tail feeds a live watcher through a bounded
backlog. A watcher falls behind if it resumes at an old revision, or if its backlog is full even after conflation. It then
reads the log itself, batch by batch, as fast as its client takes the changes, until it has caught up. So no watcher uses
more memory than its bound, no watcher loses a change, and nobody waits for a slow watcher.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from heapq import heappop, heappush
from itertools import count, groupby

from configsvc.app.changelog.tail import LogTail
from configsvc.app.watch.deliveries import Deliveries
from configsvc.app.watch.events import Changed, Snapshot, Synced, WatchEvent
from configsvc.app.watch.selector import Selector
from configsvc.app.watch.store_reads import StoreReads
from configsvc.app.watch.watcher import SendNow, Watcher
from configsvc.app.watch.watcher_index import WatcherIndex
from configsvc.clock import Clock
from configsvc.domain.records import Change, Kind
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.storage.port import Log, Reader
from configsvc.tasks import SupervisedTask, Supervisor

# The default bound of a watcher's backlog. Watchers that wait for the same changes share them in memory.
BUFFER_BYTES = 16 << 20


class WatchHub:
    """All watches of this process; a `LogFollower`. `buffer_changes` and `buffer_bytes` bound each watcher's backlog.

    A watcher that has got nothing for `progress_seconds` gets a `Progress`. More than `max_watchers` are refused.
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
        self._store = StoreReads(tail, reader, log)
        self._clock = clock
        self._buffer_changes = buffer_changes
        self._buffer_bytes = buffer_bytes
        self._progress_seconds = progress_seconds
        self._max_watchers = max_watchers
        self._index = WatcherIndex()
        self._deliveries = Deliveries()
        self._watchers: set[Watcher] = set()
        # The watchers that are synced, each once, by the time at which it gets progress unless a change comes. The number
        # orders watchers of the same time.
        self._idle: list[tuple[float, int, Watcher]] = []
        self._numbers = count()
        # Runs while there are watchers.
        self._ticker: SupervisedTask | None = None
        self._conflated = 0
        self._stopped = False
        self._history = tail.history

    @property
    def watchers(self) -> int:
        """The number of watches."""
        return len(self._watchers)

    @property
    def conflated(self) -> int:
        """How many changes in full backlogs were dropped for a newer one of the same ref, so far."""
        return self._conflated + sum(watcher.backlog.conflated for watcher in self._watchers)

    @property
    def history(self) -> str:
        """The history of the log that all events are of. A watch ends if the log gets another one."""
        return self._tail.history

    async def watch(
        self,
        selector: Selector,
        after_revision: int | None,
        history: str = "",
        *,
        send_now: SendNow | None = None,
        notify_when_live: bool = False,
    ) -> AsyncGenerator[WatchEvent, None]:
        """The events of one watch. Close the generator to end it.

        Without `after_revision`: `Snapshot` in parts, `Synced`, then changes and progress. With it: `Synced` with that
        revision, then every change after it. `history` is the history of `after_revision`; if it is empty, a client can
        resume only within the current history. `send_now` sends an event past the generator; it is called only while the
        generator waits for the next event, so the client gets everything in order. With `notify_when_live` the watcher
        gets a `Notified` when it has caught up with the log for the first time.

        Raises:
            RevisionOutOfRange: the log has another history (perhaps only now), reason `HISTORY_CHANGED`.
            RevisionOutOfRange: what comes after `after_revision` was compacted away (perhaps only now, since the
                client was slow), or has not happened yet; with `oldest_revision` and `current_revision`.
            ResourceExhausted: there are too many watches, reason `TOO_MANY_WATCHES`.
            Unavailable: the store can't be reached; or this replica shuts down, reason `SHUTTING_DOWN`.
        """
        watcher = self._register(selector, send_now, is_resuming=after_revision is not None)
        if notify_when_live:
            watcher.notify()
        try:
            if after_revision is None:
                async with aclosing(self._open(watcher)) as opening:
                    async for part in opening:
                        yield part
            else:
                await self._store.check_resumable(after_revision, history)
                watcher.resume(after_revision, self._tail.applied)
                yield Synced(after_revision)
            watcher.idle_since = self._clock.monotonic()
            self._expect_progress(watcher)
            while True:
                if watcher.is_behind:
                    async with aclosing(self._catch_up(watcher)) as missed:
                        async for change in missed:
                            yield change
                elif (event := await watcher.take()) is not None:
                    yield event
        finally:
            self._unregister(watcher)

    async def _open(self, watcher: Watcher) -> AsyncGenerator[Snapshot | Synced, None]:
        """The snapshot and its `Synced`. See `snapshot.py`."""
        after: tuple[str, str] | None = None
        while True:
            page = await self._store.page(watcher.selector, after)
            watcher.check()
            after = watcher.snapshot.add(page)
            if page.records:
                yield Snapshot(page.records)
            if after is None:
                break
        if watcher.snapshot.last > watcher.snapshot.first:
            await self._store.wait_for_tail(watcher.snapshot.last)
        records, revision = watcher.sync(self._tail.applied)
        if records:
            yield Snapshot(records)
        watcher.check()
        yield Synced(revision)

    async def _catch_up(self, watcher: Watcher) -> AsyncGenerator[Changed, None]:
        """What the watcher has missed, from the log; the watcher is live when this ends."""
        while watcher.is_behind:
            changes = await self._store.changes(watcher.read_after)
            for event in watcher.take_missed(changes):
                yield event
            watcher.go_live_if_current(self._tail.applied)

    def notify(self, kind: Kind, environment: str, service: str) -> None:
        """Sends a `Notified`, in its turn, to each watcher of this service: something outside the log has changed."""
        for watcher in self._index.of_service(kind, environment, service):
            watcher.notify()

    def shutdown(self) -> None:
        """Ends all watches with `Unavailable`, reason `SHUTTING_DOWN`, and refuses new ones."""
        self._stopped = True
        for watcher in self._watchers:
            watcher.end(_shutting_down())
        if self._ticker is not None:
            self._ticker.cancel()

    def apply(self, changes: Sequence[Change]) -> None:
        """Gives each watcher the changes that its selector matches."""
        if self._stopped or not self._watchers:
            return
        self._deliveries.begin_round()
        now, applied = self._clock.monotonic(), self._tail.applied
        for _, revision in groupby(changes, key=lambda change: change.revision):
            for watchers, event in self._recipients(tuple(revision)):
                for watcher in watchers:
                    watcher.push(event, applied, now)

    def reset(self, revision: int) -> None:
        """The tail has skipped changes. Each watcher reads them from the log, or learns that they are gone.

        If the log has another history, all watches end.
        """
        if self._stopped:
            return
        if self._history != self._tail.history:
            self._history = self._tail.history
            for watcher in self._watchers:
                watcher.end(self._tail.history_changed())
            return
        for watcher in self._watchers:
            watcher.fall_behind(self._tail.applied)

    def _register(self, selector: Selector, send_now: SendNow | None, *, is_resuming: bool) -> Watcher:
        if self._stopped:
            raise _shutting_down()
        if len(self._watchers) >= self._max_watchers:
            raise ResourceExhausted(f"this replica has {self._max_watchers} watches already", "TOO_MANY_WATCHES")
        watcher = Watcher(
            selector,
            max_changes=self._buffer_changes,
            max_bytes=self._buffer_bytes,
            applied=self._tail.applied,
            is_resuming=is_resuming,
            deliveries=self._deliveries,
            send_now=send_now,
        )
        self._watchers.add(watcher)
        self._index.add(watcher)
        if self._ticker is None:
            self._ticker = self._supervisor.supervise("watch progress", self._tick, may_return=True)
        return watcher

    def _unregister(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        self._conflated += watcher.backlog.conflated
        self._index.remove(watcher)

    def _recipients(self, revision: Sequence[Change]) -> Iterable[tuple[Iterable[Watcher], Changed]]:
        """The events of a revision, in order, each with its watchers."""
        if len(revision) == 1:
            return ((self._index.of_record(revision[0].ref), Changed(revision[0])),)
        # Backwards: the last change that matches a watcher completes the revision for it.
        recipients: list[tuple[Iterable[Watcher], Changed]] = []
        completed: set[Watcher] = set()
        for change in reversed(revision):
            recipients += _with_completion(change, self._index.of_record(change.ref), completed)
        return reversed(recipients)

    def _expect_progress(self, watcher: Watcher) -> None:
        heappush(self._idle, (watcher.idle_since + self._progress_seconds, next(self._numbers), watcher))

    async def _tick(self) -> None:
        """Offers progress to each watcher that has been idle for long enough."""
        while self._watchers:
            now = self._clock.monotonic()
            due = self._idle[0][0] if self._idle else now + self._progress_seconds
            if due > now:
                await self._clock.sleep(due - now)
                continue
            _, _, watcher = heappop(self._idle)
            if watcher not in self._watchers:
                continue
            if watcher.idle_since + self._progress_seconds <= now:
                watcher.idle_since = now
                watcher.offer_progress(self._tail.applied)
            self._expect_progress(watcher)
        self._idle.clear()
        self._ticker = None


def _with_completion(
    change: Change, watchers: Iterable[Watcher], completed: set[Watcher]
) -> Iterator[tuple[Sequence[Watcher], Changed]]:
    """The events of a change, each with its watchers; the watchers whose revision it completes become `completed`."""
    earlier: list[Watcher] = []
    last: list[Watcher] = []
    for watcher in watchers:
        (earlier if watcher in completed else last).append(watcher)
    completed.update(last)
    if last:
        yield last, Changed(change)
    if earlier:
        yield earlier, Changed(change, completes=False)


def _shutting_down() -> Unavailable:
    return Unavailable("this replica is shutting down; resume on another", "SHUTTING_DOWN")
