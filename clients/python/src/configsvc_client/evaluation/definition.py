"""What a flag is: frozen values. `flag_json` reads and writes them as JSON, `validation` has the rules they keep."""

from dataclasses import dataclass
from typing import Any, Final

Json = Any


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the values that a flag can have. The value is JSON of the flag's value type: treat it as frozen."""

    name: str
    value: Json


@dataclass(frozen=True, slots=True)
class WeightedVariant:
    """A variant and its share of a split, relative to the sum of the split's weights."""

    variant: str
    weight: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One test on one attribute of the context; `conditions` says how each operator treats which types.

    `values` are the operands: one of them has to match. `negate` inverts the result.
    """

    attribute: str
    operator: str
    values: tuple[Json, ...] = ()
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Serves `variant` or `split`, exactly one of which is given, if all conditions hold. No conditions: always."""

    name: str = ""
    conditions: tuple[Condition, ...] = ()
    variant: str = ""
    split: tuple[WeightedVariant, ...] = ()


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """Another flag of the same environment that must serve one of these variants first, enabled or not."""

    flag_name: str
    variants: tuple[str, ...]


# The variants of a boolean flag that names none. Like those of every flag, they keep their order.
IMPLIED_VARIANTS: Final = (Variant("on", True), Variant("off", False))


@dataclass(frozen=True, slots=True)
class FlagDefinition:
    """The fields of a flag, kept as they were given.

    `value_type` is `boolean`, `string`, `number` or `object`, which is a JSON object or array.
    `all_variants`, `served_default`, `served_off` and `served_on` resolve what empty fields stand for.
    """

    name: str
    environment: str
    enabled: bool = False
    value_type: str = "boolean"
    # Empty: the implied boolean variants. Append-only, see `check_successor`.
    variants: tuple[Variant, ...] = ()
    # The variant that is served if nothing else decides. Empty: `off`, for the implied variants only.
    default_variant: str = ""
    # The variant of a disabled flag, and of a flag with a prerequisite that is not met. Empty: the default variant.
    off_variant: str = ""
    # The variant for targeted users, and inside the rollout. Empty: `on`, for the implied variants only.
    on_variant: str = ""
    # Thousandths of a percent, 0 to 100,000; an integer, so that nothing rounds. JSON: `rollout_percentage`.
    rollout_thousandths: int = 0
    # Served inside the rollout, in place of the on variant.
    rollout_split: tuple[WeightedVariant, ...] = ()
    # User ids that get the on variant whatever the rules and the rollout.
    targeted_users: tuple[str, ...] = ()
    # The attribute whose value is bucketed. Empty: the user id.
    bucket_by: str = ""
    # Whether a user keeps the variant that a rollout or a split gave. The caller of the evaluation stores the assignments.
    sticky: bool = False
    # Set by the service for a sticky flag: assignments belong to one incarnation, and end with it. Empty: a flag that was
    # stored before flags had incarnations.
    incarnation: str = ""
    rules: tuple[Rule, ...] = ()
    prerequisites: tuple[Prerequisite, ...] = ()
    # Makes this flag's buckets its own. Given once, at creation.
    salt: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""
    # 0 before the flag is stored.
    version: int = 0
    # Why a stored flag can't be read: it has no definition, and evaluates to an error. Empty: it can.
    problem: str = ""

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The variants, the implied ones included."""
        return self.variants or IMPLIED_VARIANTS

    @property
    def served_default(self) -> str:
        """The name of the variant that is served if nothing else decides."""
        return self.default_variant or ("" if self.variants else "off")

    @property
    def served_off(self) -> str:
        """The name of the variant that a disabled flag serves."""
        return self.off_variant or (self.served_default if self.variants else "off")

    @property
    def served_on(self) -> str:
        """The name of the variant for targeted users and inside the rollout; empty if there is none."""
        return self.on_variant or ("" if self.variants else "on")

    @property
    def rollout_percentage(self) -> float:
        """0 to 100, as JSON shows it: an integer if it is whole."""
        whole, rest = divmod(self.rollout_thousandths, 1000)
        return self.rollout_thousandths / 1000 if rest else whole
