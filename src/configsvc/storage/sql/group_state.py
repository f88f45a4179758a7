"""Plans the writes of a group in memory, while the transaction holds the database's write lock.

The lock makes this correct: no other process can write until the transaction ends. So the rows that were loaded under the
lock, overlaid by the writes that this group has planned, are the current state. Each write is planned on its own; one that
fails leaves no trace in the state. This module does no I/O: the adapter loads, plans, stores and commits.

    state = GroupState(log_state)
    state.add_rows(reads, rows); state.add_requests(requests)   what the writes read, loaded under the lock
    planned = state.plan(write)                                 may raise: that write's own error, or NotReadError
    state.apply(planned)                                        later writes of the group see its rows
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import (
    Change,
    Commit,
    Dependents,
    Mutation,
    NotReadError,
    Put,
    Read,
    Record,
    RecordSet,
    Ref,
    Scope,
    View,
    Write,
)
from configsvc.domain.sizes import MEASURED_CHARACTERS, check_sendable, held_bytes
from configsvc.errors import FailedPrecondition
from configsvc.storage.sql.rows import Row, change_digest, change_values, json_text, required_keys

# How often one write is decided. Decisions of this service ask for what one more level of prerequisites needs, and give
# that up after `domain.prerequisites.WALKED_LEVELS` levels. A decision that asks more often asks for ever.
DECIDE_ATTEMPTS = 64


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """The write that used a request id: the fingerprint of its content, and its commit."""

    fingerprint: str
    commit: Commit


@dataclass(frozen=True, slots=True)
class PlannedWrite:
    """The commit of one write, and the rows that it adds.

    `changes` are in the order of `CHANGE_COLUMNS`; `request` is (request id, fingerprint, revision).
    """

    commit: Commit
    records: tuple[Row, ...] = ()
    changes: tuple[tuple[Any, ...], ...] = ()
    request: tuple[str, str, int] | None = None


def reads_of(writes: Iterable[Write]) -> tuple[Read, ...]:
    """What these writes read, without duplicates."""
    return tuple(dict.fromkeys(read for write in writes for read in write.reads))


def request_ids_of(writes: Iterable[Write]) -> tuple[str, ...]:
    """The request ids of these writes, without duplicates."""
    return tuple(dict.fromkeys(write.author.request_id for write in writes if write.author.request_id))


def reading_more(write: Write, needed: NotReadError) -> Write:
    """The write, which now also names what its decision asked for."""
    return replace(write, reads=(*write.reads, *needed.reads))


def asks_for_ever(write: Write) -> RuntimeError:
    """The error of a write whose decision asked for more records in each of `DECIDE_ATTEMPTS` attempts."""
    return RuntimeError(f"a decision asked for more records {DECIDE_ATTEMPTS} times; it reads {len(write.reads)} names")


class GroupState:
    """The state under the lock, overlaid by the group's planned writes."""

    def __init__(self, state: LogState) -> None:
        self.head = state.head
        self.digest = state.digest
        self.history = state.history
        self._rows: dict[Ref, Row | None] = {}
        self._requests: dict[str, StoredRequest] = {}

    @property
    def end(self) -> Checkpoint:
        """Where the log ends."""
        return Checkpoint(self.history, self.head, self.digest)

    @property
    def rows(self) -> Mapping[Ref, Row | None]:
        """The current row of each ref that was loaded or written; None if it never existed."""
        return self._rows

    def add_rows(self, reads: Iterable[Read], rows: Iterable[Row]) -> None:
        """Rows from the database: everything that `reads` names. A ref without a row never existed.

        A row that a write of this group has planned is newer, and stays.
        """
        loaded = {row.ref: row for row in rows}
        for ref in (*(read for read in reads if isinstance(read, Ref)), *loaded):
            self._rows.setdefault(ref, loaded.get(ref))

    def add_requests(self, requests: Mapping[str, StoredRequest]) -> None:
        """Requests from the database, by request id."""
        self._requests.update(requests)

    def plan(self, write: Write) -> PlannedWrite:
        """What the write would do as the next one after the head. `decide` may run more than once: it is pure.

        Raises:
            NotReadError: load its reads, and plan the write again, `reading_more`.
            FailedPrecondition: its request id was used for other content.
            InvalidInput: a resource would be too large for an answer (reason `RESOURCE_TOO_LARGE`).
            BaseException: any error of `decide`, or of the mutations that it returned.
        """
        request_id = write.author.request_id
        if request_id and (stored := self._requests.get(request_id)):
            return self._replay(write, stored)
        mutations = tuple(write.decide(self._view(write)))
        refs = [mutation.ref for mutation in mutations]
        if len(set(refs)) < len(refs):
            raise ValueError("a write names a record twice")
        if missing := [ref for ref in refs if ref not in self._rows]:
            raise NotReadError(missing)
        return self._planned(write, mutations)

    def apply(self, planned: PlannedWrite) -> None:
        """Adds the write to the state: later writes of the group see it."""
        self.head = max(self.head, planned.commit.revision)
        if planned.changes:
            self.digest = planned.commit.changes[-1].digest
        self._rows.update((row.ref, row) for row in planned.records)
        if planned.request:
            request_id, fingerprint, _ = planned.request
            self._requests[request_id] = StoredRequest(fingerprint, planned.commit)

    def _replay(self, write: Write, stored: StoredRequest) -> PlannedWrite:
        if stored.fingerprint != write.fingerprint:
            raise FailedPrecondition(
                "this request id was used for a request with other content",
                "REQUEST_ID_REUSED",
                {"request_id": write.author.request_id},
            )
        changes = tuple(replace(change, history=self.history) for change in stored.commit.changes)
        return PlannedWrite(Commit(stored.commit.revision, changes, replayed=True, history=self.history))

    def _view(self, write: Write) -> View:
        sets = [read for read in write.reads if not isinstance(read, Ref)]
        rows = [row for read in write.reads if isinstance(read, Ref) and (row := self._rows[read])]
        if sets:
            rows += _rows_in_any(sets, self._rows.values())
        live = {row.ref: record for row in rows if (record := row.record_in(self.history))}
        versions = {row.ref: row.version for row in rows}
        return View(self.head, live, versions, self.history, frozenset(write.reads))

    def _planned(self, write: Write, mutations: Sequence[Mutation]) -> PlannedWrite:
        revision = self.head + 1 if mutations else self.head
        made: list[tuple[Change, Row, str | None]] = []
        digest = self.digest
        for ordinal, mutation in enumerate(mutations):
            change, row, before = self._change(write, mutation, (revision, ordinal), digest)
            digest = change.digest
            made.append((change, row, before))
        request_id = write.author.request_id
        return PlannedWrite(
            commit=Commit(revision, tuple(change for change, _, _ in made), history=self.history),
            records=tuple(row for _, row, _ in made),
            changes=tuple(change_values(change, before, row.text) for change, row, before in made),
            request=(request_id, write.fingerprint, revision) if request_id else None,
        )

    def _change(
        self, write: Write, mutation: Mutation, place: tuple[int, int], digest: str
    ) -> tuple[Change, Row, str | None]:
        """The change, the record's row after it, and the body's text before it. `digest`: the log's, before the change."""
        author, old, (revision, ordinal) = write.author, self._rows[mutation.ref], place
        live: Record | None = old.record_in(self.history) if old else None
        body = mutation.body if isinstance(mutation, Put) else None
        if body is None and live is None:
            raise ValueError(f"a write removes a record that is not live: {mutation.ref}")
        row = Row(
            ref=mutation.ref,
            version=old.version + 1 if old else 1,
            revision=revision,
            text=None if body is None else json_text(body),
            body=body,
            created_at=live.created_at if live else author.at,
            updated_at=author.at,
            updated_by=author.actor,
        )
        # Refuse a resource that an answer could not hold. An older one that is too large may change if it does not grow.
        grows = len(row.text or "") > len((old.text if old else "") or "")
        if body is not None and grows and len(row.text or "") > MEASURED_CHARACTERS:
            check_sendable(mutation.ref.kind, body)
        change = Change(
            revision=revision,
            ordinal=ordinal,
            ref=mutation.ref,
            action=mutation.action,
            version=row.version,
            before=live.body if live else None,
            after=body,
            before_revision=live.revision if live else 0,
            created_at=row.created_at,
            actor=author.actor,
            reason=author.reason,
            request_id=author.request_id,
            at=author.at,
            digest=change_digest(digest, place, mutation, row, author),
            history=self.history,
            before_bytes=live.held_bytes if live else 0,
            after_bytes=held_bytes(row.text),
        )
        return change, row, old.text if old else None


def _rows_in_any(sets: Sequence[RecordSet], rows: Iterable[Row | None]) -> list[Row]:
    """The same condition as `Statements.reads` has, for rows that may not be in the database yet."""
    scopes = {(each.kind, each.environment) for each in sets if isinstance(each, Scope)}
    required = {(each.kind, each.environment, each.key) for each in sets if isinstance(each, Dependents)}
    return [
        row
        for row in rows
        if row and row.body is not None
        if (place := (row.ref.kind, row.ref.environment)) in scopes
        or any((*place, name) in required for name in required_keys(row.body))
    ]
