"""How an evaluation came about: the steps that were taken, in the order of evaluation, and the one that decided."""

from dataclasses import asdict, dataclass
from typing import Any

Json = Any


@dataclass(frozen=True, slots=True)
class PrerequisiteOutcome:
    """Whether another flag serves one of the variants that the prerequisite accepts (`wanted`).

    `served` is the variant that it serves; empty if it has none, for the reason that `problem` gives:
    `missing` (no such flag) or `cycle` (its prerequisites, or this flag's, never end).
    """

    flag_name: str
    wanted: tuple[str, ...]
    served: str
    met: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ConditionOutcome:
    """Whether one condition holds, and whether the context has the attribute at all."""

    attribute: str
    operator: str
    negate: bool
    present: bool
    holds: bool


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """Whether one rule matched. A rule after the one that decided is not reached, and has no conditions here."""

    index: int
    name: str
    reached: bool
    matched: bool
    conditions: tuple[ConditionOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutOutcome:
    """The gate. `bucket` and `threshold` are thousandths of a percent; inside if bucket < threshold.

    `bucket` is None if none was needed (a rollout to everyone) or the context has no unit to bucket.
    """

    bucket_by: str
    bucket: int | None
    threshold: int
    inside: bool


@dataclass(frozen=True, slots=True)
class ArmRange:
    """The points that an arm of a split has: from `first` up to, and without, `end`."""

    variant: str
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class SplitOutcome:
    """A split that was reached. `point` is in 0 … total - 1; None if the context has no unit to bucket."""

    bucket_by: str
    point: int | None
    total: int
    arms: tuple[ArmRange, ...]
    variant: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The steps of one evaluation. Steps after the one that decided were not taken: None, or empty.

    `decided_by` is `disabled`, `prerequisites`, `targeted_users`, `rules[N]`, `rollout` or `default`; or `assignment`
    if a sticky flag keeps the variant that it assigned before: the steps then say what it would serve without it. `variant` and `reason`
    repeat the evaluation's.
    """

    decided_by: str
    variant: str
    reason: str
    prerequisites: tuple[PrerequisiteOutcome, ...] = ()
    targeted: bool | None = None
    rules: tuple[RuleOutcome, ...] = ()
    rollout: RolloutOutcome | None = None
    split: SplitOutcome | None = None

    def to_json(self) -> dict[str, Json]:
        """Plain JSON values with the names of the fields; fields that are None are left out."""
        return _members(asdict(self))


def _members(source: dict[str, Json]) -> dict[str, Json]:
    return {name: _plain(item) for name, item in source.items() if item is not None}


def _plain(value: Json) -> Json:
    if isinstance(value, dict):
        return _members(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
