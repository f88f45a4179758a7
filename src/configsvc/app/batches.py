"""The use case of batches: writes of configurations and flags, of any environments, in one revision, all or none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from configsvc.domain.batches import Step, all_or_none, errors_at
from configsvc.domain.configs import Decision
from configsvc.domain.fields import Fields, checked
from configsvc.domain.json_values import digest
from configsvc.domain.limits import Limits
from configsvc.domain.records import Action, Author, Kind, Mutation, Ref, Scope, View, Write, etag_of
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.storage.port import Writer


@dataclass(frozen=True, slots=True)
class PlannedWrite:
    """One operation. `content`: what a retry of it repeats."""

    ref: Ref
    decide: Decision
    content: object


@dataclass(frozen=True, slots=True)
class BatchOperation:
    """An operation as it is asked for, at `path` in the request. `plan` refuses what can't be accepted of it."""

    path: str
    plan: Callable[[Fields], PlannedWrite]


@dataclass(frozen=True, slots=True)
class AppliedOperation:
    """What an operation did. `version` 0 and no `etag`: what it would do."""

    ref: Ref
    action: Action
    version: int = 0
    etag: str = ""


class _DryRun(Exception):
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
    ) -> tuple[Sequence[AppliedOperation], int]:
        """All operations in one revision, in their order, or none; or, with `validate_only`, none in any case.

        Raises `InvalidInput` with all fields that can't be accepted, and what the first operation that can't be done
        raises alone.
        """
        planned = self._plan(operations, author)
        steps = [Step(asked.path, one.ref, one.decide) for asked, one in zip(operations, planned, strict=True)]
        environments = {ref.environment for ref in (one.ref for one in planned) if ref.kind is Kind.FLAG}
        scopes = [Scope(Kind.FLAG, environment) for environment in sorted(environments)]
        write = Write(
            author,
            (*(one.ref for one in planned), *scopes),
            all_or_none(steps),
            digest("apply", [[one.ref.kind, one.ref.environment, one.ref.key, one.content] for one in planned]),
        )
        if validate_only:
            return await self._try(write)
        commit = await self._writer.write(write)
        applied = [
            AppliedOperation(c.ref, c.action, c.version, etag_of(c.version, c.revision, c.history) if c.record else "")
            for c in commit.changes
        ]
        return applied, commit.revision

    def _plan(self, operations: Sequence[BatchOperation], author: Author) -> Sequence[PlannedWrite]:
        planned = []
        with checked(self._limits) as fields:
            fields.author(author)
            fields.count("operations", len(operations), self._limits.batch_size, least=1)
            first: dict[Ref, str] = {}
            for asked in operations[: self._limits.batch_size]:
                with errors_at(asked.path):
                    planned.append(one := asked.plan(fields.inside(asked.path)))
                earlier = first.setdefault(one.ref, asked.path)
                if earlier != asked.path:
                    fields.refuse(asked.path, f"must not be about the same {one.ref.kind} as {earlier}")
            if (size := sum(map(_answer_bytes, first))) > ANSWER_BYTES:
                fields.refuse(
                    "operations", f"must have keys that fit into an answer of {ANSWER_BYTES} bytes; it has {size}"
                )
        return planned

    async def _try(self, write: Write) -> tuple[Sequence[AppliedOperation], int]:
        def decide(view: View) -> Sequence[Mutation]:
            raise _DryRun(view.revision, write.decide(view))

        try:
            # Without its request id, which is then still to be used.
            await self._writer.write(replace(write, author=replace(write.author, request_id=""), decide=decide))
        except _DryRun as tried:
            return [AppliedOperation(one.ref, one.action) for one in tried.mutations], tried.revision
        raise AssertionError("a write that is only tried does not come to its end")


def _answer_bytes(ref: Ref) -> int:
    """The most that an operation's outcome takes in the answer: its names, and 60 bytes of numbers and etag."""
    return 60 + sum(len(part.encode("utf-8", "surrogatepass")) for part in (ref.environment, ref.service, ref.key))


def no_mutations(_view: View) -> Sequence[Mutation]:
    """The decision of an operation that is refused before it is decided on."""
    return ()
