"""One watch: its backlog, and its place in the log.

A *live* watcher is fed by the log's tail, through its backlog. A watcher that is *behind* gets nothing from the tail; it
reads the log itself until it has caught up.

The task of the client takes the events and sends them. If it waits for the next event, everything before is sent, and the
hub may send what comes next itself (`deliver`): a thousand tasks need not be woken for one change. So there is one sender
at any time, and the order is that of the backlog.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from configsvc.app.watch.backlog import Backlog
from configsvc.app.watch.deliveries import Deliveries
from configsvc.app.watch.events import Changed, Notified, Progress
from configsvc.app.watch.selector import Selector
from configsvc.app.watch.snapshot import SnapshotRevisions
from configsvc.domain.records import Change, Record
from configsvc.errors import ServiceError

# Sends an event to a client at once. False: it can't now, and nothing is sent. Called on the event loop; never raises.
SendNow = Callable[[Changed | Progress], bool]


class Watcher:
    """Filled by the hub, between two awaits; emptied by the task of its client, or by the hub while that task waits."""

    # A change touches thousands of watchers, and none of them is in the processor's cache: the fewer objects, the better.
    __slots__ = (
        "_deliveries",
        "_error",
        "_is_notified",
        "_is_to_be_delivered",
        "_next_ordinal",
        "_next_revision",
        "_progress",
        "_send_now",
        "_snapshot",
        "_synced_to",
        "_task_waits",
        "_waiter",
        "backlog",
        "idle_since",
        "is_behind",
        "selector",
    )

    def __init__(
        self,
        selector: Selector,
        *,
        max_changes: int,
        max_bytes: int,
        applied: int,
        is_resuming: bool,
        deliveries: Deliveries,
        send_now: SendNow | None = None,
    ) -> None:
        self.selector = selector
        self.backlog = Backlog(max_changes, max_bytes)
        self._send_now = send_now
        self._deliveries = deliveries
        self._is_to_be_delivered = False
        # A watcher that resumes takes nothing from the tail until its place in the log is known.
        self.is_behind = is_resuming
        # Revision and ordinal of the first change that it may not have got: never too high, exact if it is behind.
        self._next_revision, self._next_ordinal = applied + 1, 0
        # Nothing up to here is missing at the client. `Progress` never goes below it.
        self._synced_to = 0
        self._snapshot: SnapshotRevisions | None = None if is_resuming else SnapshotRevisions()
        self._progress: int | None = None
        self._is_notified = False
        self._error: ServiceError | None = None
        self._waiter: asyncio.Future[None] | None = None
        # Whether the client's task waits in `take`: it has sent everything that it took, and nothing was left.
        self._task_waits = False
        # When the last change came.
        self.idle_since = 0.0

    # Opening.

    def resume(self, after: int, applied: int) -> None:
        """The client has everything up to `after`; the tail has applied everything up to `applied`."""
        self._next_revision, self._next_ordinal = after + 1, 0
        self._synced_to = after
        self.is_behind = after < applied

    @property
    def snapshot(self) -> SnapshotRevisions:
        """The snapshot that is being opened."""
        if self._snapshot is None:
            raise RuntimeError("this watch has no snapshot")
        return self._snapshot

    def sync(self, applied: int) -> tuple[tuple[Record, ...], int]:
        """The last page of the snapshot was read. Returns the records to add to it, and the revision of `Synced`.

        See `snapshot.py`.
        """
        first, last = self.snapshot.first, self.snapshot.last
        records: tuple[Record, ...] | None = None
        if not self.is_behind and (first == last or applied >= last):
            records = self.snapshot.missing_records(self.backlog)
        synced = first if records is None else last
        if records is not None:
            self.backlog.drop_through(synced)
        self._skip_to(synced + 1, 0)
        self._synced_to = synced
        return records or (), synced

    # What the tail tells.

    def push(self, event: Changed, applied: int, now: float) -> None:
        """Takes in a change while the watcher is live.

        A change comes here once for each of thousands of watchers, so the usual path makes few calls.
        """
        change = event.change
        if self.is_behind or (change.revision <= self._next_revision and self._has_got(change)):
            return
        self.idle_since = now
        # Nothing waits in the backlog then: while any watcher waits for its turn, none may send.
        if self._task_waits and self._send_now is not None and self._deliveries.may_send():
            if (self._snapshot is not None and self._is_in_snapshot(change)) or self._send_now(event):
                return
            self._wake()
        if not self.backlog.add(event):
            self.fall_behind(applied)
        self._offer()

    def fall_behind(self, applied: int) -> None:
        """From now on it reads the log, from the first change that it has not got."""
        if self.is_behind:
            return
        oldest = next(iter(self.backlog), None)
        if oldest is None:
            self._skip_to(applied + 1, 0)
        else:
            self._skip_to(oldest.change.revision, oldest.change.ordinal)
        self.backlog.clear()
        self._progress = None
        self.is_behind = True
        self._wake()

    def offer_progress(self, applied: int) -> None:
        """Sends a `Progress`, unless a change is still to be sent."""
        if not self.is_behind and not self.backlog:
            self._progress = max(applied, self._synced_to)
            self._offer()

    def notify(self) -> None:
        """Sends a `Notified` after the changes that are in the backlog now; only one if several are due."""
        self._is_notified = True
        self._wake()

    def end(self, error: ServiceError) -> None:
        """Ends the watch with this error, whatever is still to be sent: the client resumes after what it has."""
        self._error = error
        self._wake()

    # What the hub sends.

    def deliver(self) -> int:
        """Sends what waits, if the client's task has nothing in hand; wakes the task for the rest. Returns how many."""
        self._is_to_be_delivered = False
        if not self._task_waits or self._send_now is None:
            return 0
        # The watcher is neither behind nor ended, since both wake its task.
        sent = 0
        if self._progress is not None:
            if not self._send_now(Progress(self._progress)):
                self._wake()
                return 0
            self._progress = None
            sent = 1
        while self.backlog:
            event = self.backlog.oldest
            if not self._is_in_snapshot(event.change):
                if not self._send_now(event):
                    self._wake()
                    return sent
                sent += 1
            self.backlog.take()
        return sent

    # What the client takes.

    def check(self) -> None:
        """Raises the error that ended the watch."""
        if self._error is not None:
            raise self._error

    async def take(self) -> Changed | Progress | Notified | None:
        """The next event; None if the watcher is behind."""
        while True:
            self.check()
            if self.is_behind:
                return None
            if self._progress is not None:
                # It was offered while the backlog was empty, so every change in the backlog is newer.
                revision, self._progress = self._progress, None
                return Progress(revision)
            if self.backlog:
                event = self.backlog.take()
                if self._is_in_snapshot(event.change):
                    continue
                return event
            if self._is_notified:
                self._is_notified = False
                return Notified()
            self._waiter = asyncio.get_running_loop().create_future()
            self._task_waits = True
            try:
                await self._waiter
            finally:
                self._task_waits = False

    @property
    def read_after(self) -> int:
        """The revision after which a watcher that is behind reads the log."""
        return self._next_revision - 1

    def take_missed(self, changes: Sequence[Change]) -> Iterator[Changed]:
        """The events for the next changes of the log, whole revisions.

        If the iterator is dropped early, the watcher's place is after the last event that was taken.
        """
        for change, last in _with_last(changes, self.selector):
            self.check()
            if self._has_got(change):
                continue
            self._next_revision, self._next_ordinal = change.revision, change.ordinal + 1
            if self.selector.matches(change.ref) and not self._is_in_snapshot(change):
                yield Changed(change, change is last)
        if changes:
            self._next_revision, self._next_ordinal = changes[-1].revision + 1, 0

    def go_live_if_current(self, applied: int) -> None:
        """The tail tells everything after `applied`. Nothing else is missing if the watcher has got everything before."""
        self._synced_to = self._next_revision - 1
        self.is_behind = self._synced_to < applied

    def _is_in_snapshot(self, change: Change) -> bool:
        if self._snapshot is None:
            return False
        if change.revision > self._snapshot.last:
            # Changes come in order of revision, so the snapshot shows none from now on.
            self._snapshot = None
            return False
        return self._snapshot.shows(change)

    def _has_got(self, change: Change) -> bool:
        revision = change.revision
        return revision < self._next_revision or (
            revision == self._next_revision and change.ordinal < self._next_ordinal
        )

    def _skip_to(self, revision: int, ordinal: int) -> None:
        following = (self._next_revision, self._next_ordinal)
        self._next_revision, self._next_ordinal = max(following, (revision, ordinal))

    def _offer(self) -> None:
        if self._send_now is None:
            self._wake()
        elif self._task_waits and not self._is_to_be_delivered:
            self._is_to_be_delivered = True
            self._deliveries.add(self)

    def _wake(self) -> None:
        self._task_waits = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _with_last(changes: Sequence[Change], selector: Selector) -> Iterator[tuple[Change, Change | None]]:
    """Each change with the last one of its revision that is selected."""
    for _, revision in groupby(changes, key=lambda change: change.revision):
        group = tuple(revision)
        last = next((change for change in reversed(group) if selector.matches(change.ref)), None)
        for change in group:
            yield change, last
