"""Feature flags evaluated in this process, by the same code as in the server, so that the two can't disagree.

    from configsvc_client.evaluation import Context, Flag, FlagSet

    flag = Flag.from_json({
        "name": "new_ui",
        "environment": "production",
        "enabled": True,
        "rollout_percentage": 25,
        "targeted_users": ["u123"],
        "salt": "new_ui-1",
    })
    flags = FlagSet("production", [flag], revision=7)
    flags.evaluate("new_ui", Context("u123")).value                       # True: TARGETING_MATCH
    flags.evaluate("new_ui", Context("u7"), explain=True).explanation     # the bucket and the threshold

`Flag.from_proto(message)` reads a flag that the service sent as a message.

The first step that matches decides: the flag is disabled (`off_variant`, DISABLED); a prerequisite is not
met (`off_variant`, DISABLED); the user is targeted (`on_variant`, TARGETING_MATCH); a rule's conditions all
hold (its variant, TARGETING_MATCH, or its split, SPLIT); the user is inside the rollout (`on_variant` or
`rollout_split`, SPLIT); else `default_variant`, STATIC if the result never depends on the context and
DEFAULT if it might. If the attribute to bucket by is missing: `default_variant`, ERROR with
TARGETING_KEY_MISSING.

Where to look: `definition` for the parts of a flag; `conditions` for how operators treat missing attributes,
lists and wrong types; `bucketing` for the published algorithm behind percentages and splits; `limits` for what
is refused. Nothing here does I/O, keeps state or knows gRPC.
"""

from configsvc_client.evaluation.bucketing import GATE_SEED, SPLIT_SEED, bucket, split
from configsvc_client.evaluation.explanation import (
    ArmRange,
    ConditionOutcome,
    Explanation,
    PrerequisiteOutcome,
    RolloutOutcome,
    RuleOutcome,
    SplitOutcome,
)
from configsvc_client.evaluation.flag import (
    Condition,
    Flag,
    Prerequisite,
    Rule,
    Variant,
    WeightedVariant,
)
from configsvc_client.evaluation.flag_evaluation import Context, ErrorCode, Evaluation, Reason
from configsvc_client.evaluation.flagset import FlagNotFound, FlagSet, find_cycle
from configsvc_client.evaluation.patterns import RegexUnavailable
from configsvc_client.evaluation.validation import (
    check_flag,
    check_prerequisites,
    check_successor,
)
from configsvc_client.evaluation.violations import InvalidFlag, Violation

__all__ = [
    "GATE_SEED",
    "SPLIT_SEED",
    "ArmRange",
    "Condition",
    "ConditionOutcome",
    "Context",
    "ErrorCode",
    "Evaluation",
    "Explanation",
    "Flag",
    "FlagNotFound",
    "FlagSet",
    "InvalidFlag",
    "Prerequisite",
    "PrerequisiteOutcome",
    "Reason",
    "RegexUnavailable",
    "RolloutOutcome",
    "Rule",
    "RuleOutcome",
    "SplitOutcome",
    "Variant",
    "Violation",
    "WeightedVariant",
    "bucket",
    "check_flag",
    "check_prerequisites",
    "check_successor",
    "find_cycle",
    "split",
]
