"""What a group of writes sees and adds, decided in memory while the database's write lock is held.

The lock makes this right: nobody else can write until the transaction ends, so what was loaded after the lock was
taken, with the group's own accepted entries over it, is the state. Each write is judged on its own, and leaves no
trace unless its entry is accepted. Pure: the adapter loads, judges, stores, commits.

    ledger = Ledger(state)
    ledger.learn(refs, scopes, rows); ledger.remember(...)      what the writes name, after the lock
    entry = ledger.judge(write)                                 may raise: that write's own outcome
    ledger.accept(entry)                                        once its rows are stored
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import Change, Commit, Mutation, Put, Record, Ref, Scope, View, Write
from configsvc.domain.sizes import MEASURED_CHARACTERS, check_sendable, held_bytes
from configsvc.errors import FailedPrecondition
from configsvc.storage.sql.rows import Row, change_digest, change_values, json_text


class UnknownRefsError(LookupError):
    """Mutations name records that were not loaded: load them, `learn` them, judge again."""

    def __init__(self, refs: Sequence[Ref]) -> None:
        super().__init__(refs)
        self.refs = refs


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of a request id: the digest of its request, and its outcome."""

    fingerprint: str
    commit: Commit


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one write, and the rows that it adds.

    `changes` are in the columns' order, `request` is (request id, fingerprint, revision).
    """

    commit: Commit
    records: tuple[Row, ...] = ()
    changes: tuple[tuple[Any, ...], ...] = ()
    request: tuple[str, str, int] | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be loaded before the writes of a group can be judged."""

    refs: tuple[Ref, ...]
    scopes: tuple[Scope, ...]
    request_ids: tuple[str, ...]


def needs_of(writes: Iterable[Write]) -> Needs:
    """What these writes name, each once."""
    named = dict.fromkeys(name for write in writes for name in write.reads)
    ids = dict.fromkeys(write.author.request_id for write in writes if write.author.request_id)
    return Needs(
        refs=tuple(name for name in named if isinstance(name, Ref)),
        scopes=tuple(name for name in named if isinstance(name, Scope)),
        request_ids=tuple(ids),
    )


class Ledger:
    """The state under the lock, with the group's accepted entries over it."""

    def __init__(self, state: LogState) -> None:
        self.head = state.head
        self.digest = state.digest
        self.history = state.history
        self._rows: dict[Ref, Row | None] = {}
        self._requests: dict[str, Remembered] = {}

    @property
    def end(self) -> Checkpoint:
        """Where the log ends."""
        return Checkpoint(self.history, self.head, self.digest)

    def learn(self, refs: Iterable[Ref], rows: Iterable[Row]) -> None:
        """What the database has of `refs` and of whole scopes: those of `refs` that have no row never existed."""
        found = {row.ref: row for row in rows}
        for ref in (*refs, *found):
            self._rows.setdefault(ref, found.get(ref))

    def remember(self, requests: Mapping[str, Remembered]) -> None:
        """What the database knows of request ids."""
        self._requests.update(requests)

    def judge(self, write: Write) -> Entry:
        """The entry that the write would be, next after the head. `decide` may run more than once: it is pure.

        Raises:
            UnknownRefsError: see there.
            FailedPrecondition: its request id was used for other content.
            InvalidInput: it makes a resource that could not be sent (reason `RESOURCE_TOO_LARGE`).
            BaseException: whatever `decide` raised, or what its mutations made of.
        """
        request_id = write.author.request_id
        if request_id and (first := self._requests.get(request_id)):
            if first.fingerprint != write.fingerprint:
                raise FailedPrecondition(
                    "this request id was used for a request with other content",
                    "REQUEST_ID_REUSED",
                    {"request_id": request_id},
                )
            changes = tuple(replace(change, history=self.history) for change in first.commit.changes)
            return Entry(Commit(first.commit.revision, changes, replayed=True, history=self.history))
        mutations = tuple(write.decide(self._view(write)))
        refs = [mutation.ref for mutation in mutations]
        if len(set(refs)) < len(refs):
            raise ValueError("a write names a record twice")
        if unknown := [ref for ref in refs if ref not in self._rows]:
            raise UnknownRefsError(unknown)
        return self._entry(write, mutations)

    def accept(self, entry: Entry) -> None:
        """The entry's rows are stored: what follows in the group sees them."""
        self.head = max(self.head, entry.commit.revision)
        if entry.changes:
            self.digest = entry.commit.changes[-1].digest
        self._rows.update((row.ref, row) for row in entry.records)
        if entry.request:
            request_id, fingerprint, _ = entry.request
            self._requests[request_id] = Remembered(fingerprint, entry.commit)

    def _view(self, write: Write) -> View:
        scopes = {(name.kind, name.environment) for name in write.reads if isinstance(name, Scope)}
        rows = [row for name in write.reads if isinstance(name, Ref) and (row := self._rows[name])]
        if scopes:
            rows += [row for row in self._rows.values() if row and (row.ref.kind, row.ref.environment) in scopes]
        live = {row.ref: record for row in rows if (record := row.record_in(self.history))}
        return View(self.head, live, {row.ref: row.version for row in rows}, self.history)

    def _entry(self, write: Write, mutations: Sequence[Mutation]) -> Entry:
        revision = self.head + 1 if mutations else self.head
        made: list[tuple[Change, Row, str | None]] = []
        digest = self.digest
        for ordinal, mutation in enumerate(mutations):
            change, row, before = self._change(write, mutation, (revision, ordinal), digest)
            digest = change.digest
            made.append((change, row, before))
        request_id = write.author.request_id
        return Entry(
            commit=Commit(revision, tuple(change for change, _, _ in made), history=self.history),
            records=tuple(row for _, row, _ in made),
            changes=tuple(change_values(change, before, row.text) for change, row, before in made),
            request=(request_id, write.fingerprint, revision) if request_id else None,
        )

    def _change(
        self, write: Write, mutation: Mutation, place: tuple[int, int], digest: str
    ) -> tuple[Change, Row, str | None]:
        """The change, the record's row after it, and the body's text before it. `digest`: of the log before it."""
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
        # What could not be sent is not stored. An older resource that is too large may still change, if it does not grow.
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
