"""What clients did and saw in a run, and what the log says afterwards."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Wrote:
    """One write of a value that no other write has. Times are seconds on one monotonic clock.

    `revision` is None where the write was not acknowledged; `is_refused` then says that the service said no, and
    nothing has happened. Else it may have happened.
    """

    key: str
    value: int
    began: float
    ended: float
    revision: int | None
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """One answer: at `revision` the key had `value`, since `config_revision`; None and 0 where it was missing."""

    key: str
    min_revision: int
    revision: int
    config_revision: int
    value: int | None
    is_stale: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """One change, as a watcher was told of it."""

    revision: int
    key: str
    value: int | None


@dataclass(slots=True)
class Watched:
    """One watcher: it began after a revision, and resumed after every break where it had got to."""

    name: str
    after: int
    seen: list[Seen] = field(default_factory=list)
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Logged:
    """One change of the log."""

    revision: int
    key: str
    value: int | None


@dataclass(slots=True)
class History:
    """All of a run. `discovered` are the answers to discover, each a set of instance ids; `living` were alive throughout.

    `published` are the revisions of the events on the topic, in the order of each partition, by key.
    """

    writes: list[Wrote] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    watchers: list[Watched] = field(default_factory=list)
    discovered: list[frozenset[str]] = field(default_factory=list)
    living: frozenset[str] = frozenset()
    log: list[Logged] = field(default_factory=list)
    first_revision: int = 1
    last_revision: int = 0
    revisions: set[int] = field(default_factory=set)
    published: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
