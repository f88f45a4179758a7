"""A compiled flag: the parts that an evaluation runs through. `compiler` makes them."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from configsvc_client.evaluation import conditions
from configsvc_client.evaluation.definition import Rule
from configsvc_client.evaluation.flag import Flag
from configsvc_client.evaluation.flag_evaluation import Context, Evaluation, Reason
from configsvc_client.evaluation.json_reader import json_copy

Run = Callable[[Context], Evaluation]
# The bytes that are bucketed; None if the context has none.
Unit = Callable[[Context], bytes | None]

# The reasons of results that an assignment replaces: chance decides, or decided before percentage or weights changed. A
# disabled flag, a targeted user and a rule's variant come first.
_BY_CHANCE = (Reason.SPLIT, Reason.DEFAULT, Reason.STATIC)


@dataclass(frozen=True, slots=True)
class CompiledSplit:
    """Weighted results in the order of the flag's variants. `bounds[i]` is the end of the points of arm i."""

    outcomes: tuple[Evaluation, ...]
    bounds: tuple[int, ...]

    def at(self, point: int) -> Evaluation:
        """The result of the arm that a point falls into."""
        return self.outcomes[bisect_right(self.bounds, point)]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its conditions as predicates. `serves` is a result or a split."""

    rule: Rule
    predicates: tuple[conditions.Predicate, ...]
    serves: Evaluation | CompiledSplit

    def matches(self, context: Context) -> bool:
        """Whether all conditions hold."""
        user_id, attributes = context.user_id, context.attributes
        return all(holds(user_id, attributes) for holds in self.predicates)


@dataclass(frozen=True, slots=True)
class CompiledFlag:
    """A flag ready for evaluation.

    `run` gives the result for a context if the prerequisites are met, `unmet` if they are not.
    `prerequisites` are (flag, variants that meet it); a disabled flag has none, since it does not evaluate them.
    """

    flag: Flag
    run: Run
    unmet: Run
    prerequisites: tuple[tuple[str, frozenset[str]], ...]
    # The parts of `run`, for explanations.
    prefix: bytes
    unit: Unit
    targeted: frozenset[str]
    rules: tuple[CompiledRule, ...]
    rollout: Evaluation | CompiledSplit | None
    # For a sticky flag: the result for a user to whom a variant is assigned, by variant.
    assignable: Mapping[str, Evaluation] = field(default_factory=dict)

    def serve(self, context: Context, assigned: str | None) -> Evaluation:
        """The result for a context with an assigned variant, or None. A variant that the flag has lost is ignored."""
        evaluation = self.run(context)
        if assigned is None or evaluation.reason not in _BY_CHANCE:
            return evaluation
        kept = self.assignable.get(assigned)
        return evaluation if kept is None else replace(kept, value=json_copy(kept.value))
