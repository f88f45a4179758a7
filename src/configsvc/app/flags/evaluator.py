"""The use cases of evaluation: from memory, one flag or many, for one context or many."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from configsvc_client.evaluation import Context, Evaluation, FlagSet

from configsvc.app.changelog.tail import LogTail
from configsvc.app.flags.evaluation import Asked, Evaluate, FailedItem, Outcome
from configsvc.app.flags.sets import FlagSets
from configsvc.app.flags.sticky import StickyAssignments
from configsvc.domain.fields import FLAG_NAME_CHARACTERS, Fields, checked
from configsvc.domain.flags import flag_ref
from configsvc.domain.limits import Limits
from configsvc.domain.resources import not_found

USER_ID_CHARACTERS = 512
ATTRIBUTES = 256


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """One question of many, to the flags of an environment of its own."""

    environment: str
    asked: Asked


class Evaluator:
    """Evaluates the flags of `sets` by `evaluate`, with what sticky flags have assigned.

    Every method raises `InvalidInput` with all fields that can't be accepted, and what `FlagSets.of` raises.
    """

    def __init__(
        self, *, sets: FlagSets, assignments: StickyAssignments, evaluate: Evaluate, tail: LogTail, limits: Limits
    ) -> None:
        self._sets = sets
        self._assignments = assignments
        self._evaluate = evaluate
        self._tail = tail
        self._limits = limits

    async def one(
        self, environment: str, flag_name: str, context: Context, *, explain: bool = False
    ) -> tuple[Evaluation, int]:
        """What a flag is for a context, and the revision of the set that said so. Raises `NotFound`."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.name("flag_name", flag_name, FLAG_NAME_CHARACTERS)
            _check(fields, context)
        flag_set = await self._set(environment, [flag_name])
        (outcome,) = await self._outcomes(flag_set, [Asked(flag_name, context, explain)])
        if isinstance(outcome, FailedItem):
            raise not_found(flag_ref(environment, flag_name))
        return outcome, self._sets.revision_of(flag_set)

    async def batch(
        self, environment: str, flag_names: Sequence[str], context: Context, *, explain: bool = False
    ) -> tuple[Sequence[Outcome], int]:
        """Many flags for one context; no names: all, in the order of name. An unknown flag fails alone."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.count("flag_names", len(flag_names), self._limits.batch_size)
            _check(fields, context)
        flag_set = await self._set(environment, flag_names)
        names = flag_names or [flag.name for flag in flag_set]
        asked = [Asked(name, context, explain) for name in names]
        return await self._outcomes(flag_set, asked), self._sets.revision_of(flag_set)

    async def many(self, requests: Sequence[EvaluationRequest]) -> tuple[Sequence[Outcome], int]:
        """Many requests, each with its own context. What is wrong with one is that one's error."""
        with checked(self._limits) as fields:
            fields.count("requests", len(requests), self._limits.batch_size, least=1)
        outcomes: dict[int, Outcome] = {}
        places: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            fields = Fields(self._limits)
            fields.environment(request.environment)
            _check(fields, request.asked.context)
            if fields.violations:
                wrong = "; ".join(f"{v.field}: {v.description}" for v in fields.violations)
                name, user_id = request.asked.flag_name, request.asked.context.user_id
                outcomes[place] = FailedItem(name, user_id, "INVALID_CONTEXT", wrong)
            else:
                places[request.environment].append(place)
        revision = self._tail.applied
        for environment, here in places.items():
            asked = [requests[place].asked for place in here]
            flag_set = await self._set(environment, [one.flag_name for one in asked])
            revision = min(revision, self._sets.revision_of(flag_set))
            found = await self._outcomes(flag_set, asked)
            outcomes.update(zip(here, found, strict=True))
        return [outcomes[place] for place in range(len(requests))], revision

    async def _set(self, environment: str, names: Sequence[str]) -> FlagSet:
        """The environment's set, as new as it takes to know these names, if anyone does."""
        flag_set = await self._sets.of(environment)
        if any(name not in flag_set for name in names) and await self._tail.catch_up():
            flag_set = await self._sets.of(environment)
        return flag_set

    async def _outcomes(self, flag_set: FlagSet, asked: Sequence[Asked]) -> Sequence[Outcome]:
        return await self._evaluate(flag_set, asked, await self._assignments.of(flag_set, asked))


def _check(fields: Fields, context: Context) -> None:
    fields.text("user_id", context.user_id, USER_ID_CHARACTERS)
    fields.count("attributes", len(context.attributes), ATTRIBUTES)
