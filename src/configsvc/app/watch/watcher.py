"""One watch: what it is about, what it tells, its bounded backlog, and where it stands.

On overflow of the backlog changes are conflated by ref: the newest takes the place at the end, so that the order by
revision stays. A change is handed on as the tail gave it; all watchers share one `Changed`.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from configsvc.domain.records import Change, Kind, Record, Ref
from configsvc.errors import ServiceError
from configsvc.storage.port import READ_BYTES, RecordQuery

# A page of a snapshot. Below it a snapshot is one consistent read.
SNAPSHOT_RECORDS = 500


@dataclass(frozen=True, slots=True)
class Selector:
    """What a watch is about. `service`, `keys`: only these; None: all. `prefix`: keys that start with it."""

    kind: Kind
    environment: str
    service: str | None = None
    keys: frozenset[str] | None = None
    prefix: str = ""

    def matches(self, ref: Ref) -> bool:
        """Whether the watch is about this record."""
        return (
            ref.kind == self.kind
            and ref.environment == self.environment
            and (self.service is None or ref.service == self.service)
            and (self.keys is None or ref.key in self.keys)
            and ref.key.startswith(self.prefix)
        )

    def query(self, after: tuple[str, str] | None) -> RecordQuery:
        """The next page of what it is about."""
        services = None if self.service is None else (self.service,)
        keys = None if self.keys is None else tuple(sorted(self.keys))
        return RecordQuery(
            self.kind, self.environment, SNAPSHOT_RECORDS, services, keys, self.prefix, after, max_bytes=READ_BYTES
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A part of the opening state. A record that comes again replaces the one before."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """The opening state is complete: nothing up to `revision` is missing. Comes once, before the first change."""

    revision: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A change, shared by all watchers: encode it once by its `identity`.

    `completes`: the watcher gets nothing more of the change's revision, so it can resume after that revision. A write of
    several records is one revision, and a watch that was cut inside it would lose the rest: there it resumes after the
    revision before. Never true too early; where the watcher already has the last change, or a later one of the same
    record, it may be false although nothing more comes.
    """

    change: Change
    completes: bool = True

    @property
    def identity(self) -> tuple[int, int, bool]:
        """Equal for events that are told alike."""
        return self.change.revision, self.change.ordinal, self.completes


@dataclass(frozen=True, slots=True)
class Progress:
    """Nothing up to `revision` is still to come."""

    revision: int


@dataclass(frozen=True, slots=True)
class Notified:
    """Something beside the log has news for this watcher (`WatchHub.poke`). It is told in its turn, like a change."""


WatchEvent = Snapshot | Synced | Changed | Progress | Notified


class Backlog:
    """What a watcher has not taken yet: every change while they fit, else the newest of each ref, in order."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._every: deque[Changed] = deque()
        # Not empty: conflating. `_every` is empty then.
        self._newest: OrderedDict[Ref, Changed] = OrderedDict()
        self.conflated = 0

    def __bool__(self) -> bool:
        return bool(self._every or self._newest)

    def __iter__(self) -> Iterator[Changed]:
        return itertools.chain(self._every, self._newest.values())

    def add(self, event: Changed) -> bool:
        """Whether there was room. There is for one, however large it is."""
        self._bytes += event.change.held_bytes
        if not self._newest:
            if self._fits(len(self._every) + 1):
                self._every.append(event)
                return True
            for earlier in self._every:
                self._put(earlier)
            self._every.clear()
        self._put(event)
        return self._fits(len(self._newest))

    def take(self) -> Changed:
        event = self._newest.popitem(last=False)[1] if self._newest else self._every.popleft()
        self._bytes -= event.change.held_bytes
        return event

    def clear(self) -> None:
        self._every.clear()
        self._newest.clear()
        self._bytes = 0

    def _fits(self, changes: int) -> bool:
        return changes == 1 or (changes <= self._limit and self._bytes <= self._limit_bytes)

    def _put(self, event: Changed) -> None:
        replaced = self._newest.pop(event.change.ref, None)
        if replaced is not None:
            self.conflated += 1
            self._bytes -= replaced.change.held_bytes
        self._newest[event.change.ref] = event


class Watcher:
    """One watch: its backlog, and where it stands."""

    def __init__(self, selector: Selector, limit: int, limit_bytes: int, applied: int) -> None:
        self.selector = selector
        self.backlog = Backlog(limit, limit_bytes)
        # The first (revision, ordinal) that it has not got. Exact only where it is behind; never too high.
        self.next = (applied + 1, 0)
        self.behind = False
        # The client knows that it has everything up to here. Progress never goes below it.
        self.told = 0
        self._progress: int | None = None
        self._is_poked = False
        self._error: ServiceError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, event: Changed, applied: int) -> None:
        """Takes in a change while it is live."""
        change = event.change
        if self.behind or (change.revision, change.ordinal) < self.next:
            return
        if not self.backlog.add(event):
            self.fall_behind(applied)
        self._wake()

    def resume(self, after: int, applied: int) -> None:
        """The client has everything up to `after`; the tail has told everything up to `applied`."""
        self.next = (after + 1, 0)
        self.told = after
        self.behind = after < applied

    def caught_up(self, applied: int) -> None:
        """It has got everything before `next`: that is enough where the tail tells everything from there on."""
        self.told = self.next[0] - 1
        self.behind = self.told < applied

    def fall_behind(self, applied: int) -> None:
        """From now on it reads the log, from what it has not got."""
        if self.behind:
            return
        first = next(iter(self.backlog), None)
        start = (applied + 1, 0) if first is None else (first.change.revision, first.change.ordinal)
        self.next = max(self.next, start)
        self.backlog.clear()
        self._progress = None
        self.behind = True
        self._wake()

    def offer_progress(self, applied: int) -> None:
        """Tells the client how far it is, unless something is still to be sent."""
        if not self.behind and not self.backlog:
            self._progress = max(applied, self.told)
            self._wake()

    def poke(self) -> None:
        """It gets a `Notified`, after what is in its backlog now; one, however often."""
        self._is_poked = True
        self._wake()

    def end(self, error: ServiceError) -> None:
        """The watch ends with this error, whatever is still to be sent: the client resumes after what it has."""
        self._error = error
        self._wake()

    def check(self) -> None:
        """Raises the error that ended it."""
        if self._error is not None:
            raise self._error

    async def take(self) -> Changed | Progress | Notified | None:
        """The next event; None where it is behind."""
        while True:
            self.check()
            if self.behind:
                return None
            if self._progress is not None:
                # Offered while the backlog was empty: whatever is in it now is newer.
                revision, self._progress = self._progress, None
                return Progress(revision)
            if self.backlog:
                return self.backlog.take()
            if self._is_poked:
                self._is_poked = False
                return Notified()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
