"""Batches: writes of configurations and flags, of any environments, in one revision, all or none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from configsvc.domain.batches import Step, all_or_none, errors_at
from configsvc.domain.fields import Fields, checked
from configsvc.domain.fingerprints import fingerprint
from configsvc.domain.limits import Limits
from configsvc.domain.records import Action, Author, Change, Decision, Mutation, Ref, View, Write, etag_of
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.storage.port import Writer

# The most that the outcome of an operation takes in the answer beside its names: numbers and an etag.
OUTCOME_BYTES = 60


@dataclass(frozen=True, slots=True)
class PlannedWrite:
    """The write that an operation stands for. `content`: what a retry of the operation repeats."""

    ref: Ref
    decide: Decision
    content: object


@dataclass(frozen=True, slots=True)
class BatchOperation:
    """An operation of a request, at `path` in it. `plan` refuses the fields that can't be accepted."""

    path: str
    plan: Callable[[Fields], PlannedWrite]


@dataclass(frozen=True, slots=True)
class AppliedOperation:
    """The outcome of an operation. Of an operation that was only validated, `version` is 0 and `etag` is empty."""

    ref: Ref
    action: Action
    version: int = 0
    etag: str = ""


@dataclass(frozen=True, slots=True)
class AppliedBatch:
    """The outcomes in the order of the operations, and the revision that they were written at, or validated against."""

    operations: tuple[AppliedOperation, ...]
    revision: int


class _DryRun(Exception):
    """Ends a write inside the store's transaction, with what it would have done."""

    def __init__(self, revision: int, mutations: Sequence[Mutation]) -> None:
        super().__init__()
        self.revision = revision
        self.mutations = mutations


class Batches:
    """Applies batches."""

    def __init__(self, *, writer: Writer, limits: Limits) -> None:
        self._writer = writer
        self._limits = limits

    async def apply(
        self, operations: Sequence[BatchOperation], author: Author, *, validate_only: bool = False
    ) -> AppliedBatch:
        """Writes all operations in one revision, in their order, or none. With `validate_only`: none in any case.

        Raises `InvalidInput` with all fields that can't be accepted, and what the first operation that fails raises
        alone.
        """
        planned = self._plan(operations, author)
        steps = [Step(operation.path, one.ref, one.decide) for operation, one in zip(operations, planned, strict=True)]
        write = Write(
            author,
            tuple(one.ref for one in planned),
            all_or_none(steps),
            fingerprint(
                author, "apply", [[one.ref.kind, one.ref.environment, one.ref.key, one.content] for one in planned]
            ),
        )
        if validate_only:
            return await self._validate(write)
        commit = await self._writer.write(write)
        return AppliedBatch(tuple(map(_applied, commit.changes)), commit.revision)

    def _plan(self, operations: Sequence[BatchOperation], author: Author) -> Sequence[PlannedWrite]:
        planned = []
        with checked(self._limits) as fields:
            fields.author(author)
            fields.count("operations", len(operations), self._limits.batch_size, least=1)
            paths: dict[Ref, str] = {}
            for operation in operations[: self._limits.batch_size]:
                with errors_at(operation.path):
                    planned.append(one := operation.plan(fields.inside(operation.path)))
                earlier = paths.setdefault(one.ref, operation.path)
                if earlier != operation.path:
                    fields.refuse(operation.path, f"must not be about the same {one.ref.kind} as {earlier}")
            if (size := sum(map(_answer_bytes, paths))) > ANSWER_BYTES:
                fields.refuse(
                    "operations", f"must have keys that fit into an answer of {ANSWER_BYTES} bytes; it has {size}"
                )
        return planned

    async def _validate(self, write: Write) -> AppliedBatch:
        def decide(view: View) -> Sequence[Mutation]:
            raise _DryRun(view.revision, write.decide(view))

        try:
            # Without its request id, which stays free for the real write.
            await self._writer.write(replace(write, author=replace(write.author, request_id=""), decide=decide))
        except _DryRun as run:
            return AppliedBatch(tuple(AppliedOperation(one.ref, one.action) for one in run.mutations), run.revision)
        raise AssertionError("the decision of a dry run always raises")


def no_mutations(_view: View) -> Sequence[Mutation]:
    """The decision of an operation whose fields were refused."""
    return ()


def _applied(change: Change) -> AppliedOperation:
    etag = etag_of(change.version, change.revision, change.history) if change.record else ""
    return AppliedOperation(change.ref, change.action, change.version, etag)


def _answer_bytes(ref: Ref) -> int:
    """The most that an operation's outcome takes in the answer."""
    names = (ref.environment, ref.service, ref.key)
    return OUTCOME_BYTES + sum(len(name.encode("utf-8", "surrogatepass")) for name in names)
