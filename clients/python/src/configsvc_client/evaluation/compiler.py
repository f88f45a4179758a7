"""Compiles one flag: everything that does not depend on the context is done once.

A flag has few results, so they are made in advance, and an evaluation returns one of them: it allocates
nothing but the bytes that it hashes. Order of evaluation: disabled, prerequisites, targeted users, rules,
rollout, default; the first match decides. Prerequisites need other flags, so the flag set evaluates them;
`CompiledFlag.run` does the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

from configsvc_client.evaluation import bucketing, conditions, limits
from configsvc_client.evaluation.compiled_flag import CompiledFlag, CompiledRule, CompiledSplit, Run, Unit
from configsvc_client.evaluation.flag import Flag, Json, WeightedVariant
from configsvc_client.evaluation.flag_evaluation import Context, ErrorCode, Evaluation, Reason
from configsvc_client.evaluation.json_reader import json_copy


def unreadable(flag: Flag, problem: str) -> CompiledFlag:
    """A flag that can't be compiled: it evaluates to PARSE_ERROR, without a value. Other flags are not affected."""
    message = f"flag '{flag.name}' can't be evaluated by this release: {problem}"
    error = Evaluation(flag.name, None, "", Reason.ERROR, False, flag.version, ErrorCode.PARSE_ERROR, message)
    return CompiledFlag(
        flag=replace(flag, problem=problem, sticky=False),
        run=_constant(error),
        unmet=_constant(error),
        prerequisites=(),
        prefix=b"",
        unit=lambda _context: None,
        targeted=frozenset(),
        rules=(),
        rollout=None,
    )


def compile_flag(flag: Flag) -> CompiledFlag:
    """Compiles a valid flag. Raises LookupError or ValueError if `check_flag` would refuse it."""
    outcome = _outcomes(flag)
    off = outcome(flag.served_off, Reason.DISABLED)
    unit = _unit(flag.bucket_by)
    rules = tuple(
        CompiledRule(
            rule,
            tuple(conditions.compile_condition(c.attribute, c.operator, c.values, c.negate) for c in rule.conditions),
            _compiled_split(flag, rule.split, outcome) if rule.split else outcome(rule.variant, Reason.TARGETING_MATCH),
        )
        for rule in flag.rules
    )
    rollout: Evaluation | CompiledSplit | None = None
    if flag.rollout_thousandths:
        rollout = (
            _compiled_split(flag, flag.rollout_split, outcome)
            if flag.rollout_split
            else outcome(flag.served_on, Reason.SPLIT)
        )
    compiled = CompiledFlag(
        flag=flag,
        run=_constant(off),
        unmet=_constant(off),
        prerequisites=tuple((p.flag_name, frozenset(p.variants)) for p in flag.prerequisites),
        prefix=bucketing.length_prefixed(flag.salt.encode()),
        unit=unit,
        targeted=frozenset(flag.targeted_users),
        rules=rules,
        rollout=rollout,
        assignable={v.name: outcome(v.name, Reason.SPLIT) for v in flag.all_variants} if flag.sticky else {},
    )
    if not flag.enabled:
        return replace(compiled, prerequisites=())
    return replace(compiled, run=_run(compiled, outcome))


def _run(compiled: CompiledFlag, outcome: Callable[..., Evaluation]) -> Run:
    flag = compiled.flag
    depends = compiled.targeted or compiled.rules or compiled.rollout or compiled.prerequisites
    fallback = outcome(flag.served_default, Reason.DEFAULT if depends else Reason.STATIC)
    if not compiled.targeted and not compiled.rules and compiled.rollout is None:
        return _constant(fallback)

    keyless = _keyless(flag, outcome)
    inner = _rollout(compiled, fallback, keyless)
    if compiled.rules:
        inner = _rules(compiled, inner, keyless)
    if compiled.targeted:
        inner = _targeted(compiled.targeted, outcome(flag.served_on, Reason.TARGETING_MATCH), inner)
    return _copying(inner) if flag.value_type == "object" else inner


def _targeted(users: frozenset[str], hit: Evaluation, otherwise: Run) -> Run:
    return lambda context: hit if context.user_id in users else otherwise(context)


def _rules(compiled: CompiledFlag, otherwise: Run, keyless: Evaluation) -> Run:
    steps = tuple((rule.matches, _serve(compiled, rule.serves, keyless)) for rule in compiled.rules)

    def run(context: Context) -> Evaluation:
        for matches, serve in steps:
            if matches(context):
                return serve(context)
        return otherwise(context)

    return run


def _serve(compiled: CompiledFlag, serves: Evaluation | CompiledSplit, keyless: Evaluation) -> Run:
    """A constant result as it is, a split by the context's unit."""
    if isinstance(serves, Evaluation):
        return lambda _context: serves
    unit, prefix, at, total = compiled.unit, compiled.prefix, serves.at, serves.bounds[-1]

    def run(context: Context) -> Evaluation:
        data = unit(context)
        if data is None:
            return keyless
        return at(bucketing.split_point(prefix, data, total))

    return run


def _rollout(compiled: CompiledFlag, fallback: Evaluation, keyless: Evaluation) -> Run:
    rollout, threshold = compiled.rollout, compiled.flag.rollout_thousandths
    if rollout is None:
        return lambda _context: fallback
    inside = _serve(compiled, rollout, keyless)
    if threshold == limits.WHOLE_THOUSANDTHS:
        return inside
    unit, prefix, gate_bucket = compiled.unit, compiled.prefix, bucketing.gate_bucket
    # The usual rollout serves one result: this saves a call.
    constant = rollout if isinstance(rollout, Evaluation) else None

    def run(context: Context) -> Evaluation:
        data = unit(context)
        if data is None:
            return keyless
        if gate_bucket(prefix, data) < threshold:
            return constant or inside(context)
        return fallback

    return run


def _outcomes(flag: Flag) -> Callable[..., Evaluation]:
    values = {variant.name: variant.value for variant in flag.all_variants}

    def outcome(
        variant: str, reason: Reason, error_code: ErrorCode | None = None, error_message: str = ""
    ) -> Evaluation:
        value = values[variant]
        enabled = flag.enabled and variant != flag.served_off
        return Evaluation(
            flag_name=flag.name,
            value=value,
            variant=variant,
            reason=reason,
            enabled=value if flag.value_type == "boolean" else enabled,
            version=flag.version,
            error_code=error_code,
            error_message=error_message,
        )

    return outcome


def _keyless(flag: Flag, outcome: Callable[..., Evaluation]) -> Evaluation:
    attribute = flag.bucket_by or conditions.USER_ID
    return outcome(
        flag.served_default,
        Reason.ERROR,
        ErrorCode.TARGETING_KEY_MISSING,
        f"flag '{flag.name}' buckets by '{attribute}', which the context does not have as a text"
        " that is not empty, or as an integer",
    )


def _compiled_split(flag: Flag, split: Sequence[WeightedVariant], outcome: Callable[..., Evaluation]) -> CompiledSplit:
    position = {variant.name: index for index, variant in enumerate(flag.all_variants)}
    # In the order of the variants, which never changes, so that reordering the weights moves no user.
    arms = sorted(split, key=lambda arm: position[arm.variant])
    return CompiledSplit(
        tuple(outcome(arm.variant, Reason.SPLIT) for arm in arms),
        tuple(accumulate(arm.weight for arm in arms)),
    )


def _constant(outcome: Evaluation) -> Run:
    def run(_context: Context) -> Evaluation:
        return outcome

    return _copying(run) if isinstance(outcome.value, dict | list) else run


def _copying(run: Run) -> Run:
    """Results are shared by all callers: each gets a copy of an object, which it may change."""

    def copied(context: Context) -> Evaluation:
        evaluation = run(context)
        return replace(evaluation, value=json_copy(evaluation.value))

    return copied


def _unit(bucket_by: str) -> Unit:
    def of_user(context: Context) -> bytes | None:
        try:
            return context.user_id.encode() or None
        except UnicodeEncodeError:
            return None

    def of_attribute(context: Context) -> bytes | None:
        return unit_bytes(context.attributes.get(bucket_by))

    return of_user if bucket_by in ("", conditions.USER_ID) else of_attribute


def unit_bytes(value: Json) -> bytes | None:
    """The bytes of an attribute that users are bucketed by; None if it is missing or of another type.

    A text is its UTF-8, an integer its decimal digits. 42.0 is 42, since JSON and protobuf have one type of
    number. Integers that they don't carry exactly, fractions, booleans, lists and objects give None. So does an
    empty text: it would put everyone without a value into one bucket.
    """
    if isinstance(value, str):
        try:
            return value.encode() or None
        except UnicodeEncodeError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    most = limits.LARGEST_EXACT_INTEGER
    return str(int(value)).encode() if -most <= value <= most else None
