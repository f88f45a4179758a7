"""A flag: its definition, with the ways to read it and to write it as JSON."""

from collections.abc import Mapping
from typing import Any

from configsvc_client.evaluation import flag_json, validation
from configsvc_client.evaluation.definition import (
    IMPLIED_VARIANTS,
    Condition,
    FlagDefinition,
    Prerequisite,
    Rule,
    Variant,
    WeightedVariant,
)
from configsvc_client.evaluation.flag_message import json_of_message
from configsvc_client.evaluation.json_reader import Members
from configsvc_client.evaluation.violations import FlagViolations, InvalidFlag

Json = Any


class Flag(FlagDefinition):
    """A feature flag. Its identity is (environment, name).

    A flag from `from_json` is valid. A flag that was made from its fields, or by `dataclasses.replace`, need not be:
    `check_flag` tells. A `FlagSet` takes valid flags only.
    """

    __slots__ = ()

    @classmethod
    def from_json(cls, source: Mapping[str, Json], *, ignore_unknown: bool = False) -> "Flag":
        """The flag that JSON describes: the inverse of `to_json`, exactly. The answers of REST are such JSON, too.

        Missing and null members have their defaults. Unknown members are refused by name, at every depth, so
        that `rolloutPercentage` is not a rollout of 0 %; with `ignore_unknown` they are ignored, for JSON that
        a newer release may have written. The flag shares nothing with `source`.

        Raises:
            InvalidFlag: with everything that is wrong, whatever `source` is.
            RegexUnavailable: a condition has a regular expression, and RE2, which runs it, is not installed.
        """
        violations = FlagViolations(ignore_unknown=ignore_unknown)
        members = Members.of(source, "", violations)
        flag = flag_json.read_flag(cls, members)
        if members.boolean("definition_omitted"):
            violations.refuse(
                "definition_omitted", "must not be true: the definition is not here; get the flag by its name"
            )
        members.refuse_unread(*flag_json.OUTPUT_ONLY_MEMBERS)
        # The members that could be read are checked as well, so that one answer names everything that is wrong.
        validation.inspect(flag, violations)
        violations.raise_if_any()
        return flag

    @classmethod
    def from_stored(cls, source: Mapping[str, Json]) -> "Flag":
        """The flag that was accepted and stored before. No limit is checked: it may have been higher then.

        Never raises: a definition that can't be read becomes a flag with its identity and a `problem`.
        """
        violations = FlagViolations(ignore_unknown=True)
        flag = flag_json.read_flag(cls, Members.of(source, "", violations, bounded=False))
        if not violations.violations and not flag.problem:
            return flag
        problem = flag.problem or str(InvalidFlag(violations.violations))
        return cls(flag.name, flag.environment, salt=flag.salt, version=flag.version, problem=problem)

    @classmethod
    def from_proto(cls, message: Any) -> "Flag":
        """The flag of a `configsvc.v1.Flag` message, as `GetFlag`, `ListFlags` and `WatchFlags` give it.

        Fields that a newer server may add are ignored. Raises what `from_json` raises; `InvalidFlag` also if the
        message has no definition (`definition_omitted`).
        """
        return cls.from_json(json_of_message(message), ignore_unknown=True)

    def to_json(self) -> dict[str, Json]:
        """The flag as new JSON values, every member written out."""
        return flag_json.written_flag(self)


__all__ = [
    "IMPLIED_VARIANTS",
    "Condition",
    "Flag",
    "Prerequisite",
    "Rule",
    "Variant",
    "WeightedVariant",
]
