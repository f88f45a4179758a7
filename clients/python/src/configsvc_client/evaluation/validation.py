"""The rules that a flag keeps beyond the types of its fields, and those that its next version keeps."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from configsvc_client.evaluation import conditions, limits
from configsvc_client.evaluation.reading import json_problem
from configsvc_client.evaluation.violations import Findings, InvalidFlag, Violation

if TYPE_CHECKING:  # flag.py imports this module; the types alone are needed here.
    from configsvc_client.evaluation.flag import Flag, Rule, WeightedVariant

Json = Any

VALUE_TYPES: Final = ("boolean", "string", "number", "object")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_ALPHABET: Final = "letters, digits, '.', '_' and '-', starting with a letter or digit"
# The REST path of evaluation shadows it.
_SHADOWED_NAME: Final = "evaluate"


def check_flag(flag: "Flag") -> None:
    """Raises `InvalidFlag` with everything that is wrong with a flag that was put together by hand."""
    findings = Findings()
    inspect(flag, findings)
    findings.raise_if_any()


def check_successor(before: "Flag", after: "Flag") -> None:
    """Raises `InvalidFlag` where `after` can't follow `before`, both valid, as the next version of one flag.

    The salt never changes, and the variants keep their positions, new ones at the end: either change would
    move users who have a variant to another one. Values of variants may change.
    """
    findings = Findings()
    if after.salt != before.salt:
        findings.refuse("salt", f"must stay {before.salt!r}: another salt moves users to other buckets")
    # What can't be read any more has no variants that anyone could keep.
    names = [] if before.problem else [v.name for v in before.all_variants]
    if [v.name for v in after.all_variants][: len(names)] != names:
        findings.refuse(
            "variants",
            f"must begin with {', '.join(names)} in this order; new variants go to the end",
        )
    findings.raise_if_any()


def check_prerequisites(flag: "Flag", others: Mapping[str, "Flag"]) -> None:
    """Raises `InvalidFlag` where a prerequisite names a flag that `others` lacks, or a variant that the flag lacks.

    `others` are the flags of the same environment by name. Cycles are `find_cycle`'s business.
    """
    findings = Findings()
    for index, prerequisite in enumerate(flag.prerequisites):
        path = f"prerequisites[{index}]"
        other = others.get(prerequisite.flag_name)
        if other is None:
            findings.refuse(f"{path}.flag_name", f"must be a flag of environment '{flag.environment}'")
            continue
        known = [v.name for v in other.all_variants]
        for position, name in enumerate(prerequisite.variants):
            if name not in known:
                findings.refuse(
                    f"{path}.variants[{position}]",
                    f"must be a variant of '{other.name}': one of {', '.join(known)}",
                )
    findings.raise_if_any()


def inspect(flag: "Flag", findings: Findings) -> None:
    """Adds to `findings` what is wrong with a flag whose fields have the right types."""
    _Inspection(flag, findings).run()


class _Inspection:
    def __init__(self, flag: "Flag", findings: Findings) -> None:
        self.flag = flag
        self.findings = findings
        self.refuse = findings.refuse
        self.variant_names = {v.name for v in flag.all_variants}

    def run(self) -> None:
        flag = self.flag
        self._name("name", flag.name, limits.FLAG_NAME_CHARACTERS)
        if flag.name == _SHADOWED_NAME:
            self.refuse("name", f"must not be '{_SHADOWED_NAME}': a REST path shadows it")
        self._name("environment", flag.environment, limits.ENVIRONMENT_CHARACTERS)
        self._label("salt", flag.salt, limits.LABEL_CHARACTERS)
        self._label("bucket_by", flag.bucket_by, limits.LABEL_CHARACTERS)
        self._label("incarnation", flag.incarnation, limits.LABEL_CHARACTERS)
        self._label("owner", flag.owner, limits.OWNER_CHARACTERS)
        self._label("description", flag.description, limits.DESCRIPTION_CHARACTERS, lines=True)
        self._count("tags", flag.tags, limits.TAGS)
        for index, tag in enumerate(flag.tags):
            self._label(f"tags[{index}]", tag, limits.LABEL_CHARACTERS, required=True)
        self._count("targeted_users", flag.targeted_users, limits.TARGETED_USERS)
        for index, user in enumerate(flag.targeted_users):
            self._label(f"targeted_users[{index}]", user, limits.USER_ID_CHARACTERS, required=True)
        if not 0 <= flag.version <= limits.LARGEST_VERSION:
            self.refuse("version", f"must be an integer from 0 to {limits.LARGEST_VERSION}")
        self._variants()
        self._served()
        self._rollout()
        self._prerequisites()
        self._count("rules", flag.rules, limits.RULES)
        operands = sum(len(c.values) for rule in flag.rules for c in rule.conditions if c.operator == "matches")
        if operands > limits.PATTERNS:
            # Not even looked at: compiling them all is what the limit is there to prevent.
            self.refuse("rules", f"must have at most {limits.PATTERNS} patterns together; they have {operands}")
            return
        for index, rule in enumerate(flag.rules):
            self._rule(f"rules[{index}]", rule)

    def _variants(self) -> None:
        flag = self.flag
        if flag.value_type not in VALUE_TYPES:
            self.refuse("value_type", f"must be one of {', '.join(VALUE_TYPES)}")
        elif flag.value_type != "boolean" and not flag.variants:
            self.refuse("variants", f"must have 1 to {limits.VARIANTS} items for {flag.value_type!r}")
        self._count("variants", flag.variants, limits.VARIANTS)
        seen: set[str] = set()
        for index, variant in enumerate(flag.variants):
            path = f"variants[{index}]"
            self._label(f"{path}.name", variant.name, limits.LABEL_CHARACTERS, required=True)
            if variant.name in seen:
                self.refuse(f"{path}.name", "must be unique in the flag")
            seen.add(variant.name)
            if problem := json_problem(variant.value) or _type_problem(flag.value_type, variant.value):
                self.refuse(f"{path}.value", problem)

    def _served(self) -> None:
        flag = self.flag
        # Where the variants themselves are wrong, what refers to them can't be judged.
        self.references = not self.findings.under("variants")
        if flag.variants and not flag.default_variant:
            self.refuse("default_variant", "is required where variants are given")
        self._reference("default_variant", flag.default_variant)
        self._reference("off_variant", flag.off_variant)
        self._reference("on_variant", flag.on_variant)
        rolled_out = flag.rollout_thousandths > 0 and not flag.rollout_split
        if not flag.served_on and self.references and (flag.targeted_users or rolled_out):
            self.refuse(
                "on_variant",
                "is required where users are targeted, or a rollout has no rollout_split",
            )

    def _rollout(self) -> None:
        if not 0 <= self.flag.rollout_thousandths <= limits.WHOLE_THOUSANDTHS:
            self.refuse("rollout_percentage", "must be a number from 0 to 100 in steps of 0.001")
        self._split("rollout_split", self.flag.rollout_split)

    def _rule(self, path: str, rule: "Rule") -> None:
        self._label(f"{path}.name", rule.name, limits.LABEL_CHARACTERS)
        self._count(f"{path}.conditions", rule.conditions, limits.CONDITIONS)
        for index, condition in enumerate(rule.conditions):
            where = f"{path}.conditions[{index}]"
            most = limits.LABEL_CHARACTERS
            self._label(f"{where}.attribute", condition.attribute, most, required=True)
            for part, problem in conditions.problems(condition.operator, condition.values):
                self.refuse(f"{where}.{part}", problem)
        if bool(rule.variant) is bool(rule.split) and not self.findings.under(f"{path}.split"):
            self.refuse(f"{path}.variant", "must be given, or split, and not both")
        self._reference(f"{path}.variant", rule.variant)
        self._split(f"{path}.split", rule.split)

    def _split(self, path: str, split: Sequence["WeightedVariant"]) -> None:
        self._count(path, split, limits.VARIANTS)
        seen: set[str] = set()
        for index, arm in enumerate(split):
            where = f"{path}[{index}]"
            if not arm.variant:
                self.refuse(f"{where}.variant", "is required: a variant of the flag")
            self._reference(f"{where}.variant", arm.variant)
            if arm.variant in seen:
                self.refuse(f"{where}.variant", "must be unique in the split")
            seen.add(arm.variant)
            if not 0 <= arm.weight <= limits.WEIGHT:
                self.refuse(f"{where}.weight", f"must be an integer from 0 to {limits.WEIGHT}")
        if split and sum(arm.weight for arm in split) <= 0 and not self.findings.under(path):
            self.refuse(path, "must have weights whose sum is above 0")

    def _prerequisites(self) -> None:
        self._count("prerequisites", self.flag.prerequisites, limits.PREREQUISITES)
        for index, prerequisite in enumerate(self.flag.prerequisites):
            path = f"prerequisites[{index}]"
            self._name(f"{path}.flag_name", prerequisite.flag_name, limits.FLAG_NAME_CHARACTERS)
            if prerequisite.flag_name == self.flag.name:
                self.refuse(f"{path}.flag_name", "must be another flag: a flag can't require itself")
            if not prerequisite.variants:
                self.refuse(f"{path}.variants", f"must have 1 to {limits.VARIANTS} items")
            self._count(f"{path}.variants", prerequisite.variants, limits.VARIANTS)
            for position, name in enumerate(prerequisite.variants):
                where = f"{path}.variants[{position}]"
                self._label(where, name, limits.LABEL_CHARACTERS, required=True)

    def _reference(self, path: str, name: str) -> None:
        if name and self.references and name not in self.variant_names:
            known = ", ".join(v.name for v in self.flag.all_variants[:10])
            self.refuse(path, f"must be a variant of the flag: one of {known}")

    def _name(self, path: str, value: str, most: int) -> None:
        if len(value) > most or not _NAME.fullmatch(value):
            self.refuse(path, f"must be 1 to {most} characters: {_NAME_ALPHABET}")

    def _label(self, path: str, value: str, most: int, *, required: bool = False, lines: bool = False) -> None:
        if required and not value:
            self.refuse(path, f"is required: 1 to {most} characters")
        elif len(value) > most:
            self.refuse(path, f"must be at most {most} characters; it has {len(value)}")
        elif not value.isprintable() and any(_forbidden(c, lines) for c in value):
            self.refuse(path, "must not have control characters (NUL among them) or lone surrogates")

    def _count(self, path: str, items: Sequence[Any], most: int) -> None:
        if len(items) > most:
            self.refuse(path, f"must have at most {most} items; it has {len(items)}")


def _forbidden(character: str, lines: bool) -> bool:
    if lines and character in "\n\r\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs")


def _type_problem(value_type: str, value: Json) -> str:
    if value_type == "boolean" and not isinstance(value, bool):
        return "must be true or false, as value_type is 'boolean'"
    if value_type == "string" and not isinstance(value, str):
        return "must be a string, as value_type is 'string'"
    if value_type == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "must be a number, as value_type is 'number'"
    if value_type == "object" and not isinstance(value, Mapping | list | tuple):
        return "must be a JSON object or array, as value_type is 'object'"
    return ""


__all__ = [
    "InvalidFlag",
    "Violation",
    "check_flag",
    "check_prerequisites",
    "check_successor",
    "inspect",
]
