"""What a flag is: frozen values, read from and written as the JSON that REST shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from configsvc_client.evaluation import limits, literals, validation
from configsvc_client.evaluation.messages import json_of_message
from configsvc_client.evaluation.reading import Members, json_problem, owned, scalar_problem
from configsvc_client.evaluation.violations import Findings, InvalidFlag

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
    """One test on one attribute of the context; `conditions` says what each operator makes of which types.

    `values` are the operands: one of them has to match. `negate` turns the outcome round.
    """

    attribute: str
    operator: str
    values: tuple[Json, ...] = ()
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Serves `variant` or `split`, exactly one of which is given, where all conditions hold. None: always."""

    name: str = ""
    conditions: tuple[Condition, ...] = ()
    variant: str = ""
    split: tuple[WeightedVariant, ...] = ()


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """Another flag of the same environment that must serve one of these variants first, enabled or not."""

    flag_name: str
    variants: tuple[str, ...]


# What REST shows of a flag beside its definition.
SHOWN_MEMBERS: Final = ("etag", "revision", "created_at", "updated_at", "updated_by")

# The variants of a boolean flag that names none. Their order is fixed, as that of all variants.
IMPLIED_VARIANTS: Final = (Variant("on", True), Variant("off", False))


@dataclass(frozen=True, slots=True)
class Flag:
    """A feature flag. Its identity is (environment, name).

    A flag from `from_json` is valid. One that was put together by hand, or by `dataclasses.replace`, is
    as valid as its parts: `check_flag` tells. A `FlagSet` takes valid flags only.

    `value_type` is `boolean`, `string`, `number` or `object`, which is a JSON object or array.
    The fields are kept as they were given; `all_variants`, `served_default`, `served_off` and `served_on`
    are what they mean.
    """

    name: str
    environment: str
    enabled: bool = False
    value_type: str = "boolean"
    # Empty: the implied boolean variants. Append-only, see `check_successor`.
    variants: tuple[Variant, ...] = ()
    # The variant where nothing else decides. Empty: `off`, for the implied variants only.
    default_variant: str = ""
    # The variant of a disabled flag, and where a prerequisite is not met. Empty: the default variant.
    off_variant: str = ""
    # The variant for targeted users, and inside the rollout. Empty: `on`, for the implied variants only.
    on_variant: str = ""
    # Thousandths of a percent, 0 to 100,000; an integer, so that nothing rounds. JSON: `rollout_percentage`.
    rollout_thousandths: int = 0
    # What is served inside the rollout in place of the on variant.
    rollout_split: tuple[WeightedVariant, ...] = ()
    # User ids that get the on variant whatever the rules and the rollout.
    targeted_users: tuple[str, ...] = ()
    # The attribute whose value is bucketed. Empty: the user id.
    bucket_by: str = ""
    # Whether what a rollout or a split gave to a user stays the user's. Who evaluates keeps the assignments.
    sticky: bool = False
    # Of a sticky flag, given by the service: assignments belong to one incarnation, and end with it. Empty: the one that
    # flags had before there were several.
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
    # Not empty: a stored flag that can't be read, and why. It has no definition, and evaluates to an error.
    problem: str = ""

    @property
    def all_variants(self) -> tuple[Variant, ...]:
        """The variants, the implied ones included."""
        return self.variants or IMPLIED_VARIANTS

    @property
    def served_default(self) -> str:
        """The name of the variant that is served where nothing else decides."""
        return self.default_variant or ("" if self.variants else "off")

    @property
    def served_off(self) -> str:
        """The name of the variant that a disabled flag serves."""
        return self.off_variant or (self.served_default if self.variants else "off")

    @property
    def served_on(self) -> str:
        """The name of the variant for targeted users and inside the rollout; empty where there is none."""
        return self.on_variant or ("" if self.variants else "on")

    @property
    def rollout_percentage(self) -> float:
        """0 to 100, as JSON shows it: an integer where it is one."""
        whole, rest = divmod(self.rollout_thousandths, 1000)
        return self.rollout_thousandths / 1000 if rest else whole

    @classmethod
    def from_json(cls, source: Mapping[str, Json], *, ignore_unknown: bool = False) -> "Flag":
        """The flag that JSON describes: the inverse of `to_json`, exactly. REST's answers are such JSON, too.

        Missing and null members have their defaults. Unknown members are refused by name, at every depth, so
        that `rolloutPercentage` is not a rollout of 0 %; with `ignore_unknown` they are ignored, for JSON that
        a newer release may have written. The flag shares nothing with `source`.

        Raises `InvalidFlag` with everything that is wrong, whatever `source` is; `RegexUnavailable` where a
        condition has a regular expression and there is no RE2 to run it.
        """
        findings = Findings(ignore_unknown=ignore_unknown)
        members = Members.of(source, "", findings)
        flag = cls._read(members)
        if members.truth("definition_omitted"):
            findings.refuse(
                "definition_omitted", "must not be true: the definition is not here; get the flag by its name"
            )
        members.end(*SHOWN_MEMBERS)
        # What could be read is checked as well, so that one answer has everything.
        validation.inspect(flag, findings)
        findings.raise_if_any()
        return flag

    @classmethod
    def from_stored(cls, source: Mapping[str, Json]) -> "Flag":
        """The flag that was once accepted and stored. No limit is looked at: they may have been higher then.

        Never raises: of what can't be read a flag is left that has its identity and a `problem`.
        """
        findings = Findings(ignore_unknown=True)
        flag = cls._read(Members.of(source, "", findings, bounded=False))
        if not findings.violations and not flag.problem:
            return flag
        problem = flag.problem or str(InvalidFlag(findings.violations))
        return cls(flag.name, flag.environment, salt=flag.salt, version=flag.version, problem=problem)

    @classmethod
    def _read(cls, members: Members) -> "Flag":
        return cls(
            name=members.text("name"),
            environment=members.text("environment"),
            enabled=members.truth("enabled"),
            value_type=members.text("value_type") or "boolean",
            variants=tuple(map(_variant, members.objects("variants", limits.VARIANTS))),
            default_variant=members.text("default_variant"),
            off_variant=members.text("off_variant"),
            on_variant=members.text("on_variant"),
            rollout_thousandths=members.thousandths("rollout_percentage"),
            rollout_split=_split(members, "rollout_split"),
            targeted_users=members.texts("targeted_users", limits.TARGETED_USERS),
            bucket_by=members.text("bucket_by"),
            sticky=members.truth("sticky"),
            incarnation=members.text("incarnation"),
            rules=tuple(map(_rule, members.objects("rules", limits.RULES))),
            prerequisites=tuple(map(_prerequisite, members.objects("prerequisites", limits.PREREQUISITES))),
            salt=members.text("salt"),
            description=members.text("description"),
            tags=members.texts("tags", limits.TAGS),
            owner=members.text("owner"),
            version=members.integer("version", limits.LARGEST_VERSION),
            problem="" if members.bounded else members.text("problem"),
        )

    @classmethod
    def from_proto(cls, message: Any) -> "Flag":
        """The flag of a `configsvc.v1.Flag` message, as `GetFlag`, `ListFlags` and `WatchFlags` give it.

        Fields that a newer server may add are ignored. Raises as `from_json` does; `InvalidFlag` also where the
        message has no definition (`definition_omitted`).
        """
        return cls.from_json(json_of_message(message), ignore_unknown=True)

    def to_json(self) -> dict[str, Json]:
        """The flag as new JSON values, every member written out."""
        return {
            "name": self.name,
            "environment": self.environment,
            "enabled": self.enabled,
            "value_type": self.value_type,
            "variants": [{"name": v.name, "value": owned(v.value)} for v in self.variants],
            "default_variant": self.default_variant,
            "off_variant": self.off_variant,
            "on_variant": self.on_variant,
            "rollout_percentage": self.rollout_percentage,
            "rollout_split": _split_json(self.rollout_split),
            "targeted_users": list(self.targeted_users),
            "bucket_by": self.bucket_by,
            "sticky": self.sticky,
            "incarnation": self.incarnation,
            "rules": [
                {
                    "name": rule.name,
                    "conditions": [
                        {
                            "attribute": condition.attribute,
                            "operator": condition.operator,
                            "values": list(condition.values),
                            "negate": condition.negate,
                        }
                        for condition in rule.conditions
                    ],
                    "variant": rule.variant,
                    "split": _split_json(rule.split),
                }
                for rule in self.rules
            ],
            "prerequisites": [{"flag_name": p.flag_name, "variants": list(p.variants)} for p in self.prerequisites],
            "salt": self.salt,
            "description": self.description,
            "tags": list(self.tags),
            "owner": self.owner,
            "version": self.version,
            **({"problem": self.problem} if self.problem else {}),
        }


def _variant(members: Members) -> Variant:
    value = members.get("value")
    if members.bounded and (problem := json_problem(value)):
        members.findings.refuse(members.at("value"), problem)
        value = None
    return members.ended(Variant(members.text("name"), owned(value)))


def _split(members: Members, name: str) -> tuple[WeightedVariant, ...]:
    return tuple(
        arm.ended(WeightedVariant(arm.text("variant"), arm.integer("weight", limits.WEIGHT)))
        for arm in members.objects(name, limits.VARIANTS)
    )


def _split_json(split: tuple[WeightedVariant, ...]) -> list[Json]:
    return [{"variant": arm.variant, "weight": arm.weight} for arm in split]


def _rule(members: Members) -> Rule:
    return members.ended(
        Rule(
            name=members.text("name"),
            conditions=tuple(map(_condition, members.objects("conditions", limits.CONDITIONS))),
            variant=members.text("variant"),
            split=_split(members, "split"),
        )
    )


def _condition(members: Members) -> Condition:
    return members.ended(
        Condition(
            attribute=members.text("attribute"),
            operator=members.text("operator"),
            values=tuple(_operands(members)),
            negate=members.truth("negate"),
        )
    )


def _operands(members: Members) -> list[Json]:
    operands: list[Json] = []
    for path, item in members.items("values", limits.CONDITION_VALUES):
        if members.bounded and (problem := scalar_problem(item)):
            is_number = isinstance(item, int | float) and item == item and abs(item) != float("inf")
            members.findings.refuse(path, literals.OPERAND_TOO_LARGE if is_number else problem)
            item = None
        operands.append(item)
    return operands


def _prerequisite(members: Members) -> Prerequisite:
    return members.ended(Prerequisite(members.text("flag_name"), members.texts("variants", limits.VARIANTS)))
