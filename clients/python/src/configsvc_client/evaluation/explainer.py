"""Walks a compiled flag step by step and notes each outcome. Only for explanations: `CompiledFlag.run` decides.

It evaluates the same compiled parts a second time, so a test compares the two.
"""

from collections.abc import Sequence

from configsvc_client.evaluation import bucketing, limits
from configsvc_client.evaluation.compiled_flag import CompiledFlag, CompiledRule, CompiledSplit
from configsvc_client.evaluation.conditions import USER_ID, is_present
from configsvc_client.evaluation.explanation import (
    ArmRange,
    ConditionOutcome,
    Explanation,
    PrerequisiteOutcome,
    RolloutOutcome,
    RuleOutcome,
    SplitOutcome,
)
from configsvc_client.evaluation.flag_evaluation import Context, Evaluation, Reason


def explain(compiled: CompiledFlag, context: Context, prerequisites: Sequence[PrerequisiteOutcome]) -> Explanation:
    """How the flag comes to its result for this context, given the outcomes of its prerequisites."""
    flag = compiled.flag
    required = tuple(prerequisites)
    if not flag.enabled:
        return Explanation("disabled", flag.served_off, Reason.DISABLED)
    if not all(p.met for p in required):
        return Explanation("prerequisites", flag.served_off, Reason.DISABLED, required)
    if context.user_id in compiled.targeted:
        return Explanation("targeted_users", flag.served_on, Reason.TARGETING_MATCH, required, targeted=True)

    unit = compiled.unit(context)
    rules, decisive = _rules(compiled, context)
    if decisive is not None:
        variant, reason, split = _served(compiled, decisive.serves, unit)
        decided_by = f"rules[{compiled.rules.index(decisive)}]"
        return Explanation(decided_by, variant, reason, required, False, rules, split=split)

    fallback = flag.served_default
    if compiled.rollout is None:
        static = not (compiled.targeted or rules or required)
        reason = Reason.STATIC if static else Reason.DEFAULT
        return Explanation("default", fallback, reason, required, False, rules)

    gate = _gate(compiled, unit)
    if not gate.inside:
        if gate.bucket is None:
            return Explanation("rollout", fallback, Reason.ERROR, required, False, rules, gate)
        return Explanation("default", fallback, Reason.DEFAULT, required, False, rules, gate)
    variant, reason, split = _served(compiled, compiled.rollout, unit)
    return Explanation("rollout", variant, reason, required, False, rules, gate, split)


def _rules(compiled: CompiledFlag, context: Context) -> tuple[tuple[RuleOutcome, ...], CompiledRule | None]:
    outcomes = []
    decisive: CompiledRule | None = None
    for index, step in enumerate(compiled.rules):
        name = step.rule.name
        if decisive is not None:
            outcomes.append(RuleOutcome(index, name, reached=False, matched=False))
            continue
        conditions = _conditions(step, context)
        matched = all(c.holds for c in conditions)
        outcomes.append(RuleOutcome(index, name, True, matched, conditions))
        if matched:
            decisive = step
    return tuple(outcomes), decisive


def _conditions(step: CompiledRule, context: Context) -> tuple[ConditionOutcome, ...]:
    user_id, attributes = context.user_id, context.attributes
    return tuple(
        ConditionOutcome(
            attribute=condition.attribute,
            operator=condition.operator,
            negate=condition.negate,
            present=is_present(condition.attribute, user_id, attributes),
            holds=holds(user_id, attributes),
        )
        for condition, holds in zip(step.rule.conditions, step.predicates, strict=True)
    )


def _gate(compiled: CompiledFlag, unit: bytes | None) -> RolloutOutcome:
    threshold = compiled.flag.rollout_thousandths
    bucket = None
    if threshold < limits.WHOLE_THOUSANDTHS and unit is not None:
        bucket = bucketing.gate_bucket(compiled.prefix, unit)
    inside = threshold == limits.WHOLE_THOUSANDTHS or (bucket is not None and bucket < threshold)
    return RolloutOutcome(_bucketed_by(compiled), bucket, threshold, inside)


def _served(
    compiled: CompiledFlag, serves: Evaluation | CompiledSplit, unit: bytes | None
) -> tuple[str, Reason, SplitOutcome | None]:
    if isinstance(serves, Evaluation):
        return serves.variant, serves.reason, None
    total = serves.bounds[-1]
    point = None if unit is None else bucketing.split_point(compiled.prefix, unit, total)
    variant = compiled.flag.served_default if point is None else serves.at(point).variant
    starts = (0, *serves.bounds)
    arms = tuple(
        ArmRange(outcome.variant, first, end)
        for outcome, first, end in zip(serves.outcomes, starts, serves.bounds, strict=False)
    )
    split = SplitOutcome(_bucketed_by(compiled), point, total, arms, variant)
    return variant, Reason.ERROR if point is None else Reason.SPLIT, split


def _bucketed_by(compiled: CompiledFlag) -> str:
    return compiled.flag.bucket_by or USER_ID
