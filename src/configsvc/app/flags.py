"""The use cases of feature flags: the definitions in the store, and their evaluation from memory."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from configsvc_client.evaluation import Context, Evaluation, Flag, FlagNotFound, FlagSet

from configsvc.app.assignments import Assignments
from configsvc.app.copies import NO_COPIES, Copy, SharedCopies
from configsvc.app.history import versions
from configsvc.app.tail import LogTail
from configsvc.app.watch import Selector
from configsvc.domain import flags, pages
from configsvc.domain.configs import Decision, not_found
from configsvc.domain.fields import FLAG_NAME_CHARACTERS, Fields, checked
from configsvc.domain.flags import flag_ref
from configsvc.domain.json_values import NESTED_LEVELS, digest, is_nested_too_deeply
from configsvc.domain.limits import Limits
from configsvc.domain.pages import Page, page_cursor
from configsvc.domain.records import Author, Change, Commit, Kind, Record, Ref, Scope, Write
from configsvc.errors import NotFound, TooMuch, Unavailable
from configsvc.storage.port import History, Reader, RecordQuery, Writer

# A flag set is read whole, in one view. Beyond this an environment is refused, not cut.
FLAGS_PER_ENVIRONMENT = 100_000
# Compiled sets are kept for this many environments; a fleet has a handful.
ENVIRONMENTS = 256
USER_ID_CHARACTERS = 512
ATTRIBUTES = 256


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """One flag for one context."""

    environment: str
    flag_name: str
    context: Context
    explain: bool = False


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item of a batch that could not be evaluated; `code` is OpenFeature's."""

    flag_name: str
    user_id: str
    code: str
    message: str


Outcome: TypeAlias = Evaluation | FailedItem


@dataclass(eq=False, slots=True)
class _Loading:
    """A read of a whole set that is on its way, and what the log has told since it began."""

    task: "asyncio.Task[FlagSet]"
    changes: list[Change] = field(default_factory=list)


class FlagStore:
    """Flags by (environment, name).

    Definitions are read from the store. Evaluation uses one compiled set per environment, read whole in one view and
    then kept up to date by the log: wire `apply` and `reset` to the tail.

    Every method raises `InvalidInput` with all fields that can't be accepted, and what the ports raise.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        reader: Reader,
        history: History,
        tail: LogTail,
        limits: Limits,
        copies: SharedCopies = NO_COPIES,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._history = history
        self._tail = tail
        self._limits = limits
        self._sets: dict[str, FlagSet] = {}
        self._loading: dict[str, _Loading] = {}
        # What other replicas left, for as long as the store is away.
        self._copied: dict[str, FlagSet] = {}
        self._copies = copies
        self._assignments = Assignments(copies)
        copies.renew(lambda: [_copy(flag_set) for flag_set in self._sets.values()])

    async def create(self, definition: Mapping[str, Any], author: Author) -> tuple[Record, int]:
        """Creates a flag from its JSON. Raises `AlreadyExists`."""
        flag = self._read(definition, author)
        decision = flags.creation(flag, secrets.token_hex(8))
        ref = flag_ref(flag.environment, flag.name)
        return _written(await self._write("create", ref, decision, author, flag.to_json()))

    async def get(self, environment: str, name: str) -> tuple[Record, int]:
        """One flag. Raises `NotFound`."""
        ref = self._ref(environment, name)
        view = await self._reader.get((ref,))
        record = view.get(ref)
        if record is None:
            raise not_found(ref)
        return record, view.revision

    async def list(self, environment: str, enabled: bool | None, page_size: int, page_token: str) -> Page[Record]:
        """One page in the order of name; `enabled` None: all."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            page_size = fields.page_size(page_size)
        query = ("flags", environment, enabled)
        cursor = page_cursor(page_token, query, str)
        after = (cursor[0], "") if cursor else None
        found: list[Record] = []
        while True:
            page = await self._reader.page(RecordQuery(Kind.FLAG, environment, limit=page_size, after=after))
            found += [r for r in page.records if enabled is None or r.body["enabled"] == enabled]
            if not page.more or len(found) > page_size:
                break
            after = (page.records[-1].ref.key, "")
        more = len(found) > page_size or (page.more and len(found) == page_size)
        kept = tuple(found[:page_size])
        return Page(kept, pages.page_token(query, (kept[-1].ref.key,)) if more else "", page.revision)

    async def update(
        self, definition: Mapping[str, Any], author: Author, *, etag: str = "", allow_missing: bool = False
    ) -> tuple[Record, int]:
        """Replaces a definition whole. Raises `NotFound` unless `allow_missing`, and `StaleEtag`."""
        flag = self._read(definition, author)
        decision = flags.update(flag, secrets.token_hex(8), etag, allow_missing=allow_missing)
        ref = flag_ref(flag.environment, flag.name)
        return _written(await self._write("update", ref, decision, author, [flag.to_json(), etag, allow_missing]))

    async def delete(self, environment: str, name: str, author: Author, *, etag: str = "") -> Change:
        """Deletes a flag; its history stays. Raises `NotFound`, `StaleEtag`, and `StateForbids` for a prerequisite."""
        ref = self._ref(environment, name, author)
        commit = await self._write("delete", ref, flags.deletion(ref, etag), author, [etag])
        return commit.changes[0]

    async def history(self, environment: str, name: str, page_size: int, page_token: str) -> Page[Change]:
        """Versions, newest first, of a live or a deleted flag. Raises `NotFound`."""
        ref = self._ref(environment, name)
        with checked(self._limits) as fields:
            page_size = fields.page_size(page_size)
        return await versions(self._history, ref, page_size, page_token)

    async def evaluate(
        self, environment: str, flag_name: str, context: Context, *, explain: bool = False
    ) -> tuple[Evaluation, int]:
        """What a flag is for a context, and the revision of the set that said so. Raises `NotFound`."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.name("flag_name", flag_name, FLAG_NAME_CHARACTERS)
            self._context(fields, "", context)
        flag_set = await self._set(environment)
        try:
            found = flag_set.evaluate(flag_name, context, explain=explain)
        except FlagNotFound as error:
            raise not_found(flag_ref(environment, flag_name)) from error
        ((kept, _),) = await self._assignments.kept(flag_set, ((found, context),))
        return kept, self._revision(flag_set)

    async def evaluate_batch(
        self, environment: str, flag_names: Sequence[str], context: Context, *, explain: bool = False
    ) -> tuple[tuple[Outcome, ...], int]:
        """Many flags for one context; no names: all, in the order of name. An unknown flag fails alone."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.count("flag_names", len(flag_names), self._limits.batch_size)
            self._context(fields, "", context)
        flag_set = await self._set(environment)
        names = flag_names or [flag.name for flag in flag_set]
        outcomes = [_outcome(flag_set, name, context, explain) for name in names]
        return await self._kept(flag_set, outcomes, context), self._revision(flag_set)

    async def evaluate_many(self, requests: Sequence[EvaluationRequest]) -> tuple[tuple[Outcome, ...], int]:
        """Many requests, each with its own context. What is wrong with one is that one's error."""
        with checked(self._limits) as fields:
            fields.count("requests", len(requests), self._limits.batch_size, least=1)
        outcomes: list[Outcome] = []
        revision = self._tail.applied
        for request in requests:
            fields = Fields(self._limits)
            fields.environment(request.environment)
            self._context(fields, "", request.context)
            if fields.violations:
                wrong = "; ".join(f"{v.field}: {v.description}" for v in fields.violations)
                outcomes.append(FailedItem(request.flag_name, request.context.user_id, "INVALID_CONTEXT", wrong))
                continue
            flag_set = await self._set(request.environment)
            revision = min(revision, self._revision(flag_set))
            outcome = _outcome(flag_set, request.flag_name, request.context, request.explain)
            outcomes += await self._kept(flag_set, [outcome], request.context)
        return tuple(outcomes), revision

    def selector(self, environment: str, names: Sequence[str]) -> Selector:
        """What a watch on flags looks at; no names: all."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.count("names", len(names), self._limits.batch_size)
        return Selector(Kind.FLAG, environment, "", frozenset(names) if names else None, "")

    def apply(self, changes: Sequence[Change]) -> None:
        """Takes in what the log says. A set changes between two evaluations, never under one."""
        for change in changes:
            if change.ref.kind is not Kind.FLAG:
                continue
            environment = change.ref.environment
            if (loading := self._loading.get(environment)) is not None:
                loading.changes.append(change)
            if (flag_set := self._sets.get(environment)) is not None:
                self._sets[environment] = _changed(flag_set, change)
                self._copies.leave(_copy(self._sets[environment]))

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to a revision: sets are read anew when they are asked for."""
        self._sets.clear()
        self._loading.clear()
        self._copied.clear()

    async def _set(self, environment: str) -> FlagSet:
        """The compiled set; while the store is away, what is in memory, or the copy that another replica left."""
        if (flag_set := self._sets.get(environment)) is not None:
            return flag_set
        stale = self._tail.stale_since is not None
        if stale and (flag_set := await self._find_copy(environment)) is not None:
            return flag_set
        if not stale:
            self._copied.clear()
        try:
            return await self._read_set(environment)
        except Unavailable as error:
            self._tail.doubt(error)
            if (flag_set := await self._find_copy(environment)) is None:
                raise
            return flag_set

    async def _kept(self, flag_set: FlagSet, outcomes: Sequence[Outcome], context: Context) -> tuple[Outcome, ...]:
        """The outcomes, with what sticky flags have assigned."""
        found = [(outcome, context) for outcome in outcomes if isinstance(outcome, Evaluation)]
        kept = iter(await self._assignments.kept(flag_set, found))
        return tuple(next(kept)[0] if isinstance(outcome, Evaluation) else outcome for outcome in outcomes)

    async def _find_copy(self, environment: str) -> FlagSet | None:
        if environment not in self._copied:
            key = f"flags:{environment}"
            found = (await self._copies.find([key])).get(key)
            if found is None:
                return None
            revision, definitions = found
            # Whole or not at all: one that can't be read is no set.
            self._copied[environment] = FlagSet(environment, map(Flag.from_json, definitions), revision)
        return self._copied[environment]

    async def _read_set(self, environment: str) -> FlagSet:
        """One read of an environment at a time, whoever asks."""
        loading = self._loading.get(environment)
        if loading is None:
            loading = _Loading(asyncio.create_task(self._load(environment), name=f"flag-set-{environment}"))
            # Its error is every waiter's; where all of them have gone, it is nobody's.
            loading.task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._loading[environment] = loading
        # A caller that gives up does not take the read from the others.
        return await asyncio.shield(loading.task)

    async def _load(self, environment: str) -> FlagSet:
        loading = self._loading.get(environment)
        try:
            page = await self._reader.page(RecordQuery(Kind.FLAG, environment, limit=FLAGS_PER_ENVIRONMENT))
            if page.more:
                raise TooMuch(f"environment '{environment}' has more than {FLAGS_PER_ENVIRONMENT} flags")
            flag_set = FlagSet(environment, (flags.stored(record) for record in page.records), page.revision)
            if loading is not None and self._loading.get(environment) is loading:
                for change in loading.changes:
                    flag_set = _changed(flag_set, change)
                if len(self._sets) >= ENVIRONMENTS:
                    self._sets.pop(next(iter(self._sets)))
                self._sets[environment] = flag_set
                self._copies.leave(_copy(flag_set))
            return flag_set
        finally:
            if self._loading.get(environment) is loading:
                self._loading.pop(environment, None)

    def _revision(self, flag_set: FlagSet) -> int:
        return max(flag_set.revision, self._tail.applied)

    def _read(self, definition: Mapping[str, Any], author: Author) -> Flag:
        with checked(self._limits) as fields:
            fields.flag_name("name", str(definition.get("name", "")))
            fields.environment(str(definition.get("environment", "")))
            fields.author(author)
            for index, variant in enumerate(definition.get("variants", ())):
                if is_nested_too_deeply(variant.get("value")):
                    fields.refuse(f"variants[{index}].value", f"must not be nested more than {NESTED_LEVELS} deep")
        return flags.read(definition)

    def _context(self, fields: Fields, path: str, context: Context) -> None:
        fields.text(f"{path}user_id", context.user_id, USER_ID_CHARACTERS)
        fields.count(f"{path}attributes", len(context.attributes), ATTRIBUTES)

    def _ref(self, environment: str, name: str, author: Author | None = None) -> Ref:
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.name("name", name, FLAG_NAME_CHARACTERS)
            if author is not None:
                fields.author(author)
        return flag_ref(environment, name)

    async def _write(self, what: str, ref: Ref, decision: Decision, author: Author, content: object) -> Commit:
        fingerprint = digest(what, ref.environment, ref.key, content)
        reads = (ref, Scope(Kind.FLAG, ref.environment))
        return await self._writer.write(Write(author, reads, decision, fingerprint))


def _changed(flag_set: FlagSet, change: Change) -> FlagSet:
    if change.revision <= flag_set.revision:
        return flag_set
    record = change.record
    if record is None:
        return flag_set.without_flag(change.ref.key, revision=change.revision)
    return flag_set.with_flag(flags.stored(record), revision=change.revision)


def _copy(flag_set: FlagSet) -> Copy:
    return Copy(f"flags:{flag_set.environment}", flag_set.revision, lambda: [flag.to_json() for flag in flag_set])


def _outcome(flag_set: FlagSet, name: str, context: Context, explain: bool) -> Outcome:
    try:
        return flag_set.evaluate(name, context, explain=explain)
    except FlagNotFound:
        return FailedItem(name, context.user_id, "FLAG_NOT_FOUND", f"flag '{name}' does not exist")


def _written(commit: Commit) -> tuple[Record, int]:
    record = commit.changes[0].record
    if record is None:
        raise NotFound("the retried request's flag is gone")
    return record, commit.revision
