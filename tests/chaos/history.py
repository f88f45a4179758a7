"""What clients did and saw in a run, and the log afterwards."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WriteAttempt:
    """One write of a unique value. Times are seconds on one monotonic clock.

    `revision` is None if the write was not acknowledged. If it was refused (`is_refused`), it did not happen; otherwise
    it may have happened.
    """

    key: str
    value: int
    began: float
    ended: float
    revision: int | None
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """One answer: at `revision` the key had `value`, written at `config_revision`; None and 0 if the key was missing."""

    key: str
    min_revision: int
    revision: int
    config_revision: int
    value: int | None
    is_stale: bool


@dataclass(frozen=True, slots=True)
class ReceivedChange:
    """One change that a watcher received."""

    revision: int
    key: str
    value: int | None


@dataclass(slots=True)
class WatcherRecord:
    """One watcher: it started after a revision, and resumed after every disconnect."""

    name: str
    after: int
    received: list[ReceivedChange] = field(default_factory=list)
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class LoggedChange:
    """One change in the log."""

    revision: int
    key: str
    value: int | None


@dataclass(slots=True)
class History:
    """A whole run. `discovered` has the answers to discover as sets of instance ids; `living` were alive all the time.

    `published` has the revisions of the events on the topic by key, in the order of each partition.
    """

    writes: list[WriteAttempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    watchers: list[WatcherRecord] = field(default_factory=list)
    discovered: list[frozenset[str]] = field(default_factory=list)
    living: frozenset[str] = frozenset()
    log: list[LoggedChange] = field(default_factory=list)
    first_revision: int = 1
    last_revision: int = 0
    revisions: set[int] = field(default_factory=set)
    published: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
