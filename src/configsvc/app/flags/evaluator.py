"""The use cases of evaluation: from memory, one flag or many, for one context or many."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from configsvc_client.evaluation import Context, Evaluation, FlagSet
from configsvc_client.evaluation.field_rules import text_problem

from configsvc.app.changelog.tail import LogTail
from configsvc.app.flags.evaluation import EvaluationQuery, FailedItem, Outcome, evaluate
from configsvc.app.flags.sets import FlagSets
from configsvc.app.flags.sticky import StickyAssignments
from configsvc.domain.fields import FLAG_NAME_CHARACTERS, Fields, checked
from configsvc.domain.flags import flag_ref
from configsvc.domain.limits import Limits
from configsvc.domain.records import AtRevision
from configsvc.domain.resources import not_found

USER_ID_CHARACTERS = 512
ATTRIBUTES = 256


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """One item of a batch whose items may be about different environments."""

    environment: str
    query: EvaluationQuery


class Evaluator:
    """Evaluates the flags of `sets`, with the variants that sticky flags have assigned.

    Every method raises `InvalidInput` with all fields that can't be accepted, and what `FlagSets.get` raises.
    """

    def __init__(self, *, sets: FlagSets, assignments: StickyAssignments, tail: LogTail, limits: Limits) -> None:
        self._sets = sets
        self._assignments = assignments
        self._tail = tail
        self._limits = limits

    async def one(
        self, environment: str, flag_name: str, context: Context, *, explain: bool = False
    ) -> AtRevision[Evaluation]:
        """The evaluation of one flag, and the revision of the flag set that gave it. Raises `NotFound`."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.name("flag_name", flag_name, FLAG_NAME_CHARACTERS)
            _check(fields, context)
        flag_set = await self._set_with(environment, [flag_name])
        (outcome,) = await self._outcomes(flag_set, [EvaluationQuery(flag_name, context, explain)])
        if isinstance(outcome, FailedItem):
            raise not_found(flag_ref(environment, flag_name))
        return AtRevision(outcome, self._sets.revision_of(flag_set))

    def flag_set(self, environment: str) -> FlagSet | None:
        """The set that is evaluated now without a wait; None if there is none, or if the log can't be read."""
        return self._sets.peek(environment)

    def peek(self, environment: str, flag_names: Sequence[str], context: Context) -> FlagSet | None:
        """The set that `one`, `batch` and `many` would evaluate now with nothing but `FlagSet.evaluate`.

        None if they would wait, refuse something, or ask for the assignments of sticky flags. No names: all flags.
        """
        # Sets are only in memory for environments whose name was accepted.
        flag_set = self._sets.peek(environment)
        if flag_set is None or len(flag_names) > self._limits.batch_size or not _is_accepted(context):
            return None
        for name in flag_names or flag_set.names:
            if flag_set.depends_on_sticky(name):
                return None
        return flag_set

    async def batch(
        self, environment: str, flag_names: Sequence[str], context: Context, *, explain: bool = False
    ) -> AtRevision[Sequence[Outcome]]:
        """Many flags for one context; no names: all, in the order of name. An unknown flag fails alone."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.count("flag_names", len(flag_names), self._limits.batch_size)
            _check(fields, context)
        flag_set = await self._set_with(environment, flag_names)
        names = flag_names or [flag.name for flag in flag_set]
        queries = [EvaluationQuery(name, context, explain) for name in names]
        return AtRevision(await self._outcomes(flag_set, queries), self._sets.revision_of(flag_set))

    async def many(self, requests: Sequence[EvaluationRequest]) -> AtRevision[Sequence[Outcome]]:
        """Many requests, each with its own context. A request that can't be accepted fails alone."""
        with checked(self._limits) as fields:
            fields.count("requests", len(requests), self._limits.batch_size, least=1)
        outcomes: dict[int, Outcome] = {}
        indexes_by_environment: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            if (refused := self._refused(request)) is not None:
                outcomes[index] = refused
            else:
                indexes_by_environment[request.environment].append(index)
        revision = self._tail.applied
        for environment, indexes in indexes_by_environment.items():
            queries = [requests[index].query for index in indexes]
            flag_set = await self._set_with(environment, [query.flag_name for query in queries])
            revision = min(revision, self._sets.revision_of(flag_set))
            outcomes.update(zip(indexes, await self._outcomes(flag_set, queries), strict=True))
        return AtRevision([outcomes[index] for index in range(len(requests))], revision)

    def _refused(self, request: EvaluationRequest) -> FailedItem | None:
        fields = Fields(self._limits)
        fields.environment(request.environment)
        _check(fields, request.query.context)
        if not fields.violations:
            return None
        message = "; ".join(f"{v.field}: {v.description}" for v in fields.violations)
        return FailedItem(request.query.flag_name, request.query.context.user_id, "INVALID_CONTEXT", message)

    async def _set_with(self, environment: str, names: Sequence[str]) -> FlagSet:
        """The environment's set; if it lacks one of these names, as new as the log is now."""
        flag_set = await self._sets.get(environment)
        if any(name not in flag_set for name in names) and await self._tail.catch_up():
            flag_set = await self._sets.get(environment)
        return flag_set

    async def _outcomes(self, flag_set: FlagSet, queries: Sequence[EvaluationQuery]) -> Sequence[Outcome]:
        assigned = await self._assignments.assign(flag_set, queries)
        return [evaluate(flag_set, query, variants) for query, variants in zip(queries, assigned, strict=True)]


def _is_accepted(context: Context) -> bool:
    """Whether `_check` refuses nothing; it takes a fraction of the time."""
    problem = text_problem(context.user_id, USER_ID_CHARACTERS, multiline=True)
    return not problem and len(context.attributes) <= ATTRIBUTES


def _check(fields: Fields, context: Context) -> None:
    fields.text("user_id", context.user_id, USER_ID_CHARACTERS)
    fields.count("attributes", len(context.attributes), ATTRIBUTES)
