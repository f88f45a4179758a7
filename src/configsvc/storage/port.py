"""What the service needs of a database. Adapters: `sqlite`, `postgres`. One conformance suite runs over both.

Laws that hold for every adapter:

- Revisions are 1, 2, 3 … in the order of commit, without a gap within a history. A reader that has seen revision N
  will never later find a new change at or below N.
- The log has a history, an id that it keeps as long as it is a continuation of what anyone has seen of it
  (domain/lineage.py). Everything that is read names it. No write is acknowledged by a log that is no continuation of
  what this process has followed or written: it is `Unavailable`, reason `LOG_DIVERGED`, and has not happened.
- A write is atomic and durable when `write` returns. Where it raises `Unavailable` it may or may not have happened;
  a `request_id` makes a retry safe. Where it raises anything else it has not happened.
- Every read is one consistent view, at the revision that it names.
- Text is ordered by code point.
- An unreachable, locked or full database is `errors.Unavailable`, with the driver's error as its cause.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

from configsvc.domain.events import EventLoss
from configsvc.domain.instances import Incarnation
from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint, HistoryOrigin, LogState
from configsvc.domain.records import Change, Commit, Kind, Record, Ref, View, Write

# What one read of the store loads where nothing else is said: as much as an answer can have, and one item beyond.
READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Live records of one kind in one environment, in the order of (key, service).

    `services` and `keys`: only these; None: all. `prefix`: keys that start with it. `after`: only what comes after
    this (key, service). `limit`: at most this many, above 0. `max_bytes`: no more once the bodies that were read have so
    many bytes (or characters), except other records of the last key; None: no bound.
    """

    kind: Kind
    environment: str
    limit: int
    services: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None
    prefix: str = ""
    after: tuple[str, str] | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records at one revision of a history. `more`: the limit, or `max_bytes`, cut the list."""

    revision: int
    records: tuple[Record, ...]
    more: bool
    history: str = ""


@dataclass(frozen=True, slots=True)
class ChangeQuery:
    """Changes, newest first: by falling (revision, ordinal). Filters that are not None must all match.

    `reason` matches reasons that contain it. Times and revisions: `from_time` and `until_revision` are inclusive,
    `until_time` and `after_revision` exclusive. `before`: only what is older than this (revision, ordinal). `max_bytes`:
    no more once the bodies that were read have so many bytes (or characters); None: no bound.
    """

    limit: int
    kind: Kind | None = None
    environment: str | None = None
    service: str | None = None
    key: str | None = None
    actor: str | None = None
    reason: str | None = None
    from_time: datetime | None = None
    until_time: datetime | None = None
    after_revision: int | None = None
    until_revision: int | None = None
    before: tuple[int, int] | None = None
    max_bytes: int | None = READ_BYTES


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes, read at one revision of a history. `more`: the limit, or `max_bytes`, cut the list.

    Changes up to `compacted` are gone.
    """

    revision: int
    changes: tuple[Change, ...]
    more: bool
    compacted: int = 0
    history: str = ""


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Versions of one record, live or removed: 1 to `newest` were written, and the log has those from `oldest` on.

    `oldest` is `newest + 1` where all of their changes were compacted away.
    """

    oldest: int
    newest: int


@dataclass(frozen=True, slots=True)
class LogPage:
    """What comes after a place in the log, and whether the log still knows that place.

    `stored_digest` is the log's digest at that revision; empty: it has none.
    """

    state: LogState
    stored_digest: str
    changes: tuple[Change, ...]

    def continues(self, seen: Checkpoint) -> bool:
        """Whether the log is a continuation of one in which `seen`, the place asked for, was seen."""
        return self.state.continues(seen, self.stored_digest)


class Reader(Protocol):
    """Current records."""

    async def get(self, refs: Sequence[Ref]) -> View:
        """The live ones among `refs`."""
        ...

    async def page(self, query: RecordQuery) -> RecordPage:
        """One page of live records."""
        ...


class ChangeHistory(Protocol):
    """The change log, looked up."""

    async def version(self, ref: Ref, version: int) -> Change | None:
        """The change that made this version; None where there is none or it was compacted away."""
        ...

    async def versions(self, ref: Ref) -> VersionRange | None:
        """Which versions there are; None where the record was never written."""
        ...

    async def search(self, query: ChangeQuery) -> ChangePage:
        """One page of changes."""
        ...


class Log(Protocol):
    """The change log, read in order."""

    async def state(self) -> LogState:
        """The newest and the compacted revision."""
        ...

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        """The changes after a revision, oldest first: `limit` where there are that many, and their bodies have no more
        than about `max_bytes` bytes (None: no bound); else fewer, but at least one revision. Only none at all means that
        there are no more.

        A revision is never cut: its changes come all together, so that the answer may be longer than `limit`.

        Raises:
            RevisionOutOfRange: `after` is below the compacted revision, or above the newest.
        """
        ...


class ResumableLog(Protocol):
    """The log's identity."""

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        """The changes after a place, as `Log.read` gives them; only of use where the page continues it.

        Where it does not, or the log was compacted beyond it, it is no error: the page says so.
        """
        ...

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        """Sees to it that `seen` can't be taken for a part of the log, unless it is one.

        Where the log is no continuation of `seen`, it gets a new history, which begins `LEAP_REVISIONS` above both.
        Decided while nobody writes, so that of several callers one makes it, and the others find it made.
        """
        ...


class HistoryAdmin(Protocol):
    """What an operator does with the log's history."""

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        """Gives the log a new history, which begins `leap` above its head."""
        ...

    async def history_origin(self) -> HistoryOrigin:
        """Where the log's history comes from."""
        ...


class Writer(Protocol):
    """The one way to change anything."""

    async def write(self, write: Write) -> Commit:
        """Applies a write and returns its outcome when it is durable.

        Concurrent writes may share a transaction; each has an outcome of its own.

        Raises:
            ServiceError: what `decide` raised; nothing has happened.
            FailedPrecondition: the request id was used for other content (reason `REQUEST_ID_REUSED`).
            InvalidInput: a resource would be too large to be sent (reason `RESOURCE_TOO_LARGE`, see `domain/sizes.py`).
            Unavailable: the database is away; or reason `LOG_DIVERGED`, see above.
        """
        ...


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which changes stay when the log is compacted: the newest `changes`, of them those from `since` on.

    `since` None: whatever their age. Clocks of replicas differ, so a change that is older by its own time still stays
    behind one that stays. With `unpublished`, what the outbox has not published yet stays too.
    """

    changes: int
    since: datetime | None = None
    unpublished: bool = False


@dataclass(frozen=True, slots=True)
class QuietPeriods:
    """Times in which no change was made: from one change's time to the next one's, oldest first.

    `newest` is the time of the newest change by time; None if the log is empty.
    """

    newest: datetime | None
    periods: tuple[tuple[datetime, datetime], ...]


class Compactor(Protocol):
    """Keeps the log bounded."""

    async def quiet_periods(self, longer_than: timedelta) -> QuietPeriods:
        """The silences of the log that are longer than this. Raises `Unavailable`."""
        ...

    async def compact(self, policy: RetentionPolicy) -> int:
        """Forgets what is not to be kept, oldest first, whole revisions at a time; returns the compacted revision.

        Current records stay, whatever their age. Remembered request ids go with their changes.
        """
        ...


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How far the log has left for the outside, and what has not.

    Everything up to `published` has; `waiting` revisions have not, the oldest made at `waiting_since`, None if none
    waits. `failure`: why, as whoever has the turn saw it last; empty: it goes on. `reduced` and `skipped` count the
    events that left with less in them, and not at all; `last_loss` is the last of them.
    """

    published: int
    waiting: int
    waiting_since: datetime | None
    failure: str
    reduced: int
    skipped: int
    last_loss: EventLoss | None


class OutboxLease(Protocol):
    """The right to publish the log, of one process at a time."""

    async def published(self) -> int:
        """The revision up to which everything has been published; 0 at first. Raises `Unavailable`."""
        ...

    async def advance(self, revision: int, losses: Sequence[EventLoss] = ()) -> None:
        """Remembers, durably, that everything up to `revision` has been published, but for these losses, and that it
        goes on: trouble is over.

        Raises:
            Unavailable: it could not be remembered, or the turn was lost. End the turn and take a new one.
        """
        ...

    async def report_failure(self, reason: str) -> None:
        """Remembers why nothing can be published, for every replica to see. Raises `Unavailable` as `advance` does."""
        ...

    async def keep_alive(self) -> None:
        """Shows that the holder is alive: call it every second or so. Raises `Unavailable` if the turn is lost."""
        ...

    async def wait_for_changes(self, within_seconds: float) -> None:
        """Returns when the log may have grown, or after `within_seconds`. Raises `Unavailable` where the turn is lost."""
        ...


class Outbox(Protocol):
    """How far the log has left for the outside."""

    async def outbox_status(self) -> OutboxStatus:
        """What waits and what was lost, whoever has the turn. Raises `Unavailable`."""
        ...

    def outbox_lease(self) -> AbstractAsyncContextManager[OutboxLease]:
        """Waits for the turn, and holds it while the context is open. It is lost with its process or its connection.

        A process that is alive but has hung for some seconds loses it too.

        Raises:
            Unavailable: the database is away.
        """
        ...


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What is known of the life of one incarnation, in heard seconds (see `Heartbeats`).

    `seen_at`: its last heartbeat. `granted_at`: when it last got a lease without one; less than `seen_at` if it has
    got none since then.
    """

    seen_at: float
    granted_at: float


class Heartbeats(Protocol):
    """Heartbeats of instances, as all replicas have heard them.

    Points in time are *heard seconds*: for how long, since the database was made, at least one replica has listened. The
    replicas measure them, on monotonic clocks, and the store keeps the highest. So they stand still while nobody listens,
    and no jump of a wall clock changes them. What is noted survives a restart of the store.
    """

    async def advance_lease_clock(self, clock_seconds: float) -> float:
        """A replica listens, and measures this now. Returns the highest that any has measured. Raises `Unavailable`."""
        ...

    async def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        """These gave a sign of life at these points. What is older than what is known changes nothing, nor does what is
        of an earlier incarnation. Raises `Unavailable`."""
        ...

    async def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        """Each gets a lease at this point without a sign of life, unless it got one since its last sign.

        One of which nothing is known counts as seen at this point. Raises `Unavailable`.
        """
        ...

    async def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        """What is known of each; those of which nothing is known are missing. Raises `Unavailable`."""
        ...

    async def forget_heartbeats(self, before: float) -> None:
        """Forgets those that have neither been seen nor granted a lease since then. Raises `Unavailable`."""
        ...


class Storage(Reader, ChangeHistory, Log, ResumableLog, HistoryAdmin, Writer, Compactor, Outbox, Heartbeats, Protocol):
    """A database. Entering the context opens it and brings its schema up to date."""

    @property
    def name(self) -> str:
        """What it is, for people: `sqlite`, `postgresql`."""
        ...

    async def ping(self) -> None:
        """Returns where the database answers; raises `Unavailable` where it does not."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
