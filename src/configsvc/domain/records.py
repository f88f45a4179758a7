"""The record, which is the form of every resource in the store, and the change, which is a row of the change log.

Configurations, flags and registrations differ in their `body` only. Versions, revisions, history, audit and watches are
the same for all, so the store has one table of records and one of changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from configsvc.domain.lineage import Checkpoint

JsonObject = Mapping[str, Any]

T = TypeVar("T")


class Kind(StrEnum):
    """The kind of a resource."""

    CONFIG = "config"
    FLAG = "flag"
    INSTANCE = "instance"


class Action(StrEnum):
    """What a write did. `STATUS` and `EXPIRE` are written by the registry itself."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    ROLLBACK = "ROLLBACK"
    STATUS = "STATUS"
    EXPIRE = "EXPIRE"


class Ref(NamedTuple):
    """Identity of a record. A tuple, because each write and read looks for one in several dictionaries.

    Configurations use all four parts (`service` empty: shared by all). Flags have no service. Instances have no
    environment; their key is the instance id.
    """

    kind: Kind
    environment: str
    service: str
    key: str


@dataclass(frozen=True, slots=True)
class Scope:
    """All live records of a kind in an environment."""

    kind: Kind
    environment: str


@dataclass(frozen=True, slots=True)
class Dependents:
    """The live records of a kind in an environment that have the record `key` among their prerequisites.

    A view may also show other records of that kind and environment: the one who asks checks each.
    """

    kind: Kind
    environment: str
    key: str


# What a write can read: one record, or a set of live records.
RecordSet = Scope | Dependents
Read = Ref | RecordSet


class NotReadError(LookupError):
    """A write needs `reads`, which it did not name and which are not loaded. See `Write`."""

    def __init__(self, reads: Sequence[Read]) -> None:
        super().__init__(reads)
        self.reads = tuple(reads)


def etag_of(version: int, revision: int, history: str) -> str:
    """The opaque tag of one state of one record.

    After a restore, the same version and revision can come again for another state; the history of the log
    (domain/lineage.py) can't. An etag without a history, from a release before histories, equals no etag of today: it does
    not tell which history it is from.
    """
    return f"{version}-{revision:x}-{history}"


@dataclass(frozen=True, slots=True)
class Record:
    """The current state of a live resource.

    `version` counts 1, 2, 3 … per `ref`, and goes on after a delete and a new create. `revision` is the revision of the
    last write. `body` is a JSON object that must not be changed. `history` is the history of the log that the record was
    read from. `held_bytes`: an estimate of the memory that the body takes (domain/sizes.py), 0 if it is not known.
    """

    ref: Ref
    version: int
    revision: int
    body: JsonObject
    created_at: datetime
    updated_at: datetime
    updated_by: str
    history: str = ""
    held_bytes: int = field(default=0, compare=False)

    @property
    def etag(self) -> str:
        """The opaque tag of this state."""
        return etag_of(self.version, self.revision, self.history)

    @property
    def is_new(self) -> bool:
        """Whether the last write created it, for the first time or after a removal."""
        return self.created_at == self.updated_at


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the change log: one write of one resource.

    `ordinal` orders the changes of one revision, from 0. `before` is None for a create, `after` for a removal.
    `before_revision` is the revision of the state before, 0 if there was none. `created_at` is the record's. `digest` is
    the digest of the log up to this row (domain/lineage.py), empty if an older release wrote the row. `history` is the
    history of the log that the change was read from. `before_bytes`, `after_bytes`: as `Record.held_bytes`.
    """

    revision: int
    ordinal: int
    ref: Ref
    action: Action
    version: int
    before: JsonObject | None
    after: JsonObject | None
    before_revision: int
    created_at: datetime
    actor: str
    reason: str
    request_id: str
    at: datetime
    digest: str = ""
    history: str = ""
    before_bytes: int = field(default=0, compare=False)
    after_bytes: int = field(default=0, compare=False)

    @property
    def held_bytes(self) -> int:
        """An estimate of the memory that both bodies take."""
        return self.before_bytes + self.after_bytes

    @property
    def checkpoint(self) -> Checkpoint:
        """The position in the log."""
        return Checkpoint(self.history, self.revision, self.digest)

    @property
    def has_lost_before(self) -> bool:
        """Whether the state before is not known, because the change itself was compacted away."""
        return self.before is None and self.action is Action.UPDATE

    @property
    def record(self) -> Record | None:
        """The state after the change; None for a removal."""
        if self.after is None:
            return None
        return Record(
            self.ref,
            self.version,
            self.revision,
            self.after,
            self.created_at,
            self.at,
            self.actor,
            self.history,
            self.after_bytes,
        )

    @property
    def previous(self) -> Record | None:
        """The state before the change, if the row has it. The row doesn't tell who wrote that state, or when: `updated_by`
        is empty, and `updated_at` is the time of this change.
        """
        if self.before is None:
            return None
        return Record(
            self.ref,
            self.version - 1,
            self.before_revision,
            self.before,
            self.created_at,
            self.at,
            "",
            self.history,
            self.before_bytes,
        )

    @property
    def written(self) -> Record:
        """The state after a change that is not a removal."""
        record = self.record
        assert record is not None, f"a {self.action} leaves no record"
        return record


@dataclass(frozen=True, slots=True)
class AtRevision(Generic[T]):
    """A value as it was at one revision of the log: the revision that the read saw."""

    value: T
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Gives a record this body; creates it if it does not exist."""

    ref: Ref
    body: JsonObject
    action: Action


@dataclass(frozen=True, slots=True)
class Remove:
    """Removes a live record."""

    ref: Ref
    action: Action = Action.DELETE


Mutation = Put | Remove


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, why and when. A retry has the same `request_id` (empty: retries are not recognised)."""

    actor: str
    reason: str
    request_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class View:
    """Live records as they stood together at one revision of a history. A record that is not in it is not live.

    In a write, `reads` is what the view was loaded for, and each method raises `NotReadError` if its answer needs more
    (see `Write`). `versions`: the last version of each record that `reads` names, also of removed records. Outside a
    write, `reads` is None, and `versions` is empty.
    """

    revision: int
    records: Mapping[Ref, Record]
    versions: Mapping[Ref, int] = field(default_factory=dict)
    history: str = ""
    reads: frozenset[Read] | None = None

    def get(self, ref: Ref) -> Record | None:
        """The live record, or None."""
        record = self.records.get(ref)
        if record is None and self.reads is not None and Scope(ref.kind, ref.environment) not in self.reads:
            self.require(ref)
        return record

    def last_version(self, ref: Ref) -> int:
        """The version of a record's last write, which may be its removal; 0 if the record never existed."""
        self.require(ref)
        return self.versions.get(ref, 0)

    def require(self, *reads: Read) -> None:
        """Asks for several reads at once: they are loaded together."""
        if self.reads is not None and (missing := [read for read in reads if read not in self.reads]):
            raise NotReadError(missing)

    def of(self, records: RecordSet) -> list[Record]:
        """The live records of a set, in the order of their refs; see `Dependents` for what else may be among them."""
        self.require(records)
        inside = (
            r for r in self.records.values() if r.ref.kind == records.kind and r.ref.environment == records.environment
        )
        return sorted(inside, key=lambda record: record.ref)


# What a write does, given the state that it was made for.
Decision = Callable[[View], Sequence[Mutation]]


@dataclass(frozen=True, slots=True)
class Write:
    """One atomic write, decided inside the store's transaction.

    `decide` is pure and quick. It gets a view of everything that `reads` names, locked until the transaction ends. It
    returns the mutations, at most one per ref; without mutations no revision is taken. If it raises a `ServiceError`,
    nothing is written. `fingerprint` is a digest of the request's content: a request id that comes again with another
    fingerprint is refused.

    `reads` is what `decide` needs in any case. It may ask its view for more. Then the view raises `NotReadError`, which
    `decide` must let through. The store loads what was asked for under the same lock, and runs `decide` again. So a
    write that depends on few records of a large set reads only those.
    """

    author: Author
    reads: tuple[Read, ...]
    decide: Decision
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """The outcome of a write: its revision and changes, in the order of the mutations.

    `replayed`: the request was a retry, and this is the outcome of the first attempt. Without changes, `revision` is the
    current one. `history` is the history of the log that the write went to.
    """

    revision: int
    changes: tuple[Change, ...]
    replayed: bool = False
    history: str = ""
