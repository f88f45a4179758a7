"""The one shape that every resource has in the store, and the change log's row.

A configuration, a flag and a registration differ in their `body`; versions, revisions, history, audit and watch are
the same for all, so the store knows one table of records and one of changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from configsvc.domain.lineage import Checkpoint

JsonObject = Mapping[str, Any]

T = TypeVar("T")


class Kind(StrEnum):
    """What a record is."""

    CONFIG = "config"
    FLAG = "flag"
    INSTANCE = "instance"


class Action(StrEnum):
    """What a write did. `STATUS` and `EXPIRE` are the registry's own."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    ROLLBACK = "ROLLBACK"
    STATUS = "STATUS"
    EXPIRE = "EXPIRE"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Identity of a record.

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


def etag_of(version: int, revision: int, history: str) -> str:
    """The opaque tag of one state of one record.

    Version and revision come again after a restore, for other states; the history of the log (domain/lineage.py) does
    not. One without it, as releases before it gave out, is equal to none: nobody knows which future it is of.
    """
    return f"{version}-{revision:x}-{history}"


@dataclass(frozen=True, slots=True)
class Record:
    """The current state of a live resource.

    `version` counts 1, 2, 3 … per `ref` and goes on after delete and re-create; `revision` is that of the last write.
    `body` is a JSON object that must not be changed. `history` is that of the log which told it. `held_bytes`: about what
    the body takes in memory (domain/sizes.py), 0 if it is not known.
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
        """Whether the last write created it, for the first time or again after a removal."""
        return self.created_at == self.updated_at


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the change log: one write of one resource.

    `ordinal` orders the changes of one revision, from 0. `before` is None for a create, `after` for a removal.
    `before_revision` is the revision of the state before, 0 where there was none. `created_at` is the record's.
    `digest` is that of the log up to here (domain/lineage.py), empty where an older release wrote the row. `history`
    is that of the log which told the change. `before_bytes`, `after_bytes`: as `Record.held_bytes`.
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
        """About what both bodies take in memory."""
        return self.before_bytes + self.after_bytes

    @property
    def checkpoint(self) -> Checkpoint:
        """The place in the log."""
        return Checkpoint(self.history, self.revision, self.digest)

    @property
    def has_lost_before(self) -> bool:
        """Whether there was a state before that is not known: the change itself was compacted away."""
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
    """The record shall have this body: created where it is missing."""

    ref: Ref
    body: JsonObject
    action: Action


@dataclass(frozen=True, slots=True)
class Remove:
    """The record, which is live, shall be gone."""

    ref: Ref
    action: Action = Action.DELETE


Mutation = Put | Remove


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, why, when, and under which id a retry is recognised (empty: none)."""

    actor: str
    reason: str
    request_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class View:
    """Live records as they stood together at one revision of a history. What is missing is not there.

    `versions`: the last version of each record that `reads` names, removed ones too. Filled inside a write alone.
    """

    revision: int
    records: Mapping[Ref, Record]
    versions: Mapping[Ref, int] = field(default_factory=dict)
    history: str = ""

    def get(self, ref: Ref) -> Record | None:
        """The live record, or None."""
        return self.records.get(ref)

    def last_version(self, ref: Ref) -> int:
        """The version of a record's last write, its removal included; 0 if it never existed."""
        return self.versions.get(ref, 0)

    def of(self, scope: Scope) -> list[Record]:
        """The live records of a scope, in the order of their refs."""
        inside = (
            r for r in self.records.values() if r.ref.kind == scope.kind and r.ref.environment == scope.environment
        )
        return sorted(inside, key=lambda record: record.ref)


# What a write does, given the state that it was made for.
Decision = Callable[[View], Sequence[Mutation]]


@dataclass(frozen=True, slots=True)
class Write:
    """One atomic write, decided inside the store's transaction.

    `decide` is pure and quick: it gets a view of everything that `reads` names, locked until the transaction ends, and
    returns the mutations, at most one per ref, or raises a `ServiceError`, and then nothing happens. No mutations: no
    revision is taken. `fingerprint` is a digest of the request's content; a request id used again with another
    fingerprint is refused.
    """

    author: Author
    reads: tuple[Ref | Scope, ...]
    decide: Decision
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """The outcome of a write: its revision and changes, in the order of the mutations.

    `replayed`: a retry of a request id; this is the first outcome. Without changes `revision` is the current one.
    `history` is that of the log which took the write.
    """

    revision: int
    changes: tuple[Change, ...]
    replayed: bool = False
    history: str = ""
