"""The rules that a flag keeps beyond the types of its fields, and the rules that its next version keeps."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from configsvc_client.evaluation import conditions, limits
from configsvc_client.evaluation.definition import FlagDefinition, Rule, WeightedVariant
from configsvc_client.evaluation.field_rules import count_problem, name_problem, text_problem
from configsvc_client.evaluation.json_reader import json_problem
from configsvc_client.evaluation.rest_names import SHADOWED_NAMES
from configsvc_client.evaluation.violations import FlagViolations, InvalidFlag, Violation

Json = Any

VALUE_TYPES: Final = ("boolean", "string", "number", "object")


def check_flag(flag: FlagDefinition) -> None:
    """Checks a flag that was made from its fields. Raises `InvalidFlag` with everything that is wrong."""
    violations = FlagViolations()
    inspect(flag, violations)
    violations.raise_if_any()


def check_successor(before: FlagDefinition, after: FlagDefinition) -> None:
    """Checks that `after` can be the version of a flag that follows `before`; both are valid. Raises `InvalidFlag`.

    The salt never changes, and the variants keep their positions, new ones at the end: either change would
    move users who have a variant to another one. Values of variants may change.
    """
    violations = FlagViolations()
    if after.salt != before.salt:
        violations.refuse("salt", f"must stay {before.salt!r}: another salt moves users to other buckets")
    # A flag that can't be read any more serves no variants, so no user has one to keep.
    names = [] if before.problem else [v.name for v in before.all_variants]
    if [v.name for v in after.all_variants][: len(names)] != names:
        violations.refuse(
            "variants",
            f"must begin with {', '.join(names)} in this order; new variants go to the end",
        )
    violations.raise_if_any()


def check_prerequisites(flag: FlagDefinition, others: Mapping[str, FlagDefinition]) -> None:
    """Checks that each prerequisite names a flag of `others`, and variants of that flag. Raises `InvalidFlag`.

    `others` are the flags of the same environment by name. Cycles are found by `find_cycle`.
    """
    violations = FlagViolations()
    for index, prerequisite in enumerate(flag.prerequisites):
        path = f"prerequisites[{index}]"
        other = others.get(prerequisite.flag_name)
        if other is None:
            violations.refuse(f"{path}.flag_name", f"must be a flag of environment '{flag.environment}'")
            continue
        known = [v.name for v in other.all_variants]
        for position, name in enumerate(prerequisite.variants):
            if name not in known:
                violations.refuse(
                    f"{path}.variants[{position}]",
                    f"must be a variant of '{other.name}': one of {', '.join(known)}",
                )
    violations.raise_if_any()


def inspect(flag: FlagDefinition, violations: FlagViolations) -> None:
    """Adds to `violations` what is wrong with a flag whose fields have the right types."""
    _Inspection(flag, violations).run()


class _Inspection:
    def __init__(self, flag: FlagDefinition, violations: FlagViolations) -> None:
        self.flag = flag
        self.violations = violations
        self.refuse = violations.refuse
        self.variant_names = {v.name for v in flag.all_variants}

    def run(self) -> None:
        flag = self.flag
        self._name("name", flag.name, limits.FLAG_NAME_CHARACTERS)
        self.violations.check("name", SHADOWED_NAMES.flag_name_problem(flag.name))
        self._name("environment", flag.environment, limits.ENVIRONMENT_CHARACTERS)
        self._text("salt", flag.salt, limits.LABEL_CHARACTERS)
        self._text("bucket_by", flag.bucket_by, limits.LABEL_CHARACTERS)
        self._text("incarnation", flag.incarnation, limits.LABEL_CHARACTERS)
        self._text("owner", flag.owner, limits.OWNER_CHARACTERS)
        self._text("description", flag.description, limits.DESCRIPTION_CHARACTERS, multiline=True)
        self._texts("tags", flag.tags, limits.TAGS, limits.LABEL_CHARACTERS)
        self._texts("targeted_users", flag.targeted_users, limits.TARGETED_USERS, limits.USER_ID_CHARACTERS)
        if not 0 <= flag.version <= limits.LARGEST_VERSION:
            self.refuse("version", f"must be an integer from 0 to {limits.LARGEST_VERSION}")
        self._variants()
        self._served()
        self._rollout()
        self._prerequisites()
        self._rules()

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
            self._text(f"{path}.name", variant.name, limits.LABEL_CHARACTERS, required=True)
            if variant.name in seen:
                self.refuse(f"{path}.name", "must be unique in the flag")
            seen.add(variant.name)
            if problem := json_problem(variant.value) or _type_problem(flag.value_type, variant.value):
                self.refuse(f"{path}.value", problem)

    def _served(self) -> None:
        flag = self.flag
        # If the variants themselves are wrong, references to them can't be judged.
        self.variants_are_known = not self.violations.has_refused("variants")
        if flag.variants and not flag.default_variant:
            self.refuse("default_variant", "is required if variants are given")
        self._reference("default_variant", flag.default_variant)
        self._reference("off_variant", flag.off_variant)
        self._reference("on_variant", flag.on_variant)
        serves_on_variant = flag.rollout_thousandths > 0 and not flag.rollout_split
        if not flag.served_on and self.variants_are_known and (flag.targeted_users or serves_on_variant):
            self.refuse(
                "on_variant",
                "is required if users are targeted, or a rollout has no rollout_split",
            )

    def _rollout(self) -> None:
        if not 0 <= self.flag.rollout_thousandths <= limits.WHOLE_THOUSANDTHS:
            self.refuse("rollout_percentage", "must be a number from 0 to 100 in steps of 0.001")
        self._split("rollout_split", self.flag.rollout_split)

    def _rules(self) -> None:
        rules = self.flag.rules
        self._count("rules", rules, limits.RULES)
        patterns = sum(len(c.values) for rule in rules for c in rule.conditions if c.operator == "matches")
        if patterns > limits.PATTERNS:
            # The rules are not inspected: compiling all these patterns is what the limit prevents.
            self.refuse("rules", f"must have at most {limits.PATTERNS} patterns together; they have {patterns}")
            return
        for index, rule in enumerate(rules):
            self._rule(f"rules[{index}]", rule)

    def _rule(self, path: str, rule: Rule) -> None:
        self._text(f"{path}.name", rule.name, limits.LABEL_CHARACTERS)
        self._count(f"{path}.conditions", rule.conditions, limits.CONDITIONS)
        for index, condition in enumerate(rule.conditions):
            condition_path = f"{path}.conditions[{index}]"
            self._text(f"{condition_path}.attribute", condition.attribute, limits.LABEL_CHARACTERS, required=True)
            for part, problem in conditions.problems(condition.operator, condition.values):
                self.refuse(f"{condition_path}.{part}", problem)
        if bool(rule.variant) is bool(rule.split) and not self.violations.has_refused(f"{path}.split"):
            self.refuse(f"{path}.variant", "must be given, or split, and not both")
        self._reference(f"{path}.variant", rule.variant)
        self._split(f"{path}.split", rule.split)

    def _split(self, path: str, split: Sequence[WeightedVariant]) -> None:
        self._count(path, split, limits.VARIANTS)
        seen: set[str] = set()
        for index, arm in enumerate(split):
            arm_path = f"{path}[{index}]"
            if not arm.variant:
                self.refuse(f"{arm_path}.variant", "is required: a variant of the flag")
            self._reference(f"{arm_path}.variant", arm.variant)
            if arm.variant in seen:
                self.refuse(f"{arm_path}.variant", "must be unique in the split")
            seen.add(arm.variant)
            if not 0 <= arm.weight <= limits.WEIGHT:
                self.refuse(f"{arm_path}.weight", f"must be an integer from 0 to {limits.WEIGHT}")
        if split and sum(arm.weight for arm in split) <= 0 and not self.violations.has_refused(path):
            self.refuse(path, "must have weights whose sum is above 0")

    def _prerequisites(self) -> None:
        self._count("prerequisites", self.flag.prerequisites, limits.PREREQUISITES)
        for index, prerequisite in enumerate(self.flag.prerequisites):
            path = f"prerequisites[{index}]"
            self._name(f"{path}.flag_name", prerequisite.flag_name, limits.FLAG_NAME_CHARACTERS)
            if prerequisite.flag_name == self.flag.name:
                self.refuse(f"{path}.flag_name", "must be another flag: a flag can't require itself")
            self._count(f"{path}.variants", prerequisite.variants, limits.VARIANTS, least=1)
            for position, name in enumerate(prerequisite.variants):
                self._text(f"{path}.variants[{position}]", name, limits.LABEL_CHARACTERS, required=True)

    def _reference(self, path: str, name: str) -> None:
        if name and self.variants_are_known and name not in self.variant_names:
            known = ", ".join(v.name for v in self.flag.all_variants[:10])
            self.refuse(path, f"must be a variant of the flag: one of {known}")

    def _name(self, path: str, value: str, most: int) -> None:
        self.violations.check(path, name_problem(value, most))

    def _text(self, path: str, value: str, most: int, *, required: bool = False, multiline: bool = False) -> None:
        self.violations.check(path, text_problem(value, most, required=required, multiline=multiline))

    def _texts(self, path: str, values: Sequence[str], most_items: int, most_characters: int) -> None:
        self._count(path, values, most_items)
        for index, value in enumerate(values):
            self._text(f"{path}[{index}]", value, most_characters, required=True)

    def _count(self, path: str, items: Sequence[Any], most: int, *, least: int = 0) -> None:
        self.violations.check(path, count_problem(len(items), most, least=least))


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
