"""The input of an evaluation and its result. Reasons and error codes are OpenFeature's, letter for letter
(github.com/open-feature/spec, specification/types.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from configsvc_client.evaluation.explanation import Explanation

Json = Any


class Reason(StrEnum):
    """Why a variant was served. `CACHED`, `UNKNOWN` and `STALE` are OpenFeature's too, and are never set here."""

    STATIC = "STATIC"
    DEFAULT = "DEFAULT"
    TARGETING_MATCH = "TARGETING_MATCH"
    SPLIT = "SPLIT"
    CACHED = "CACHED"
    DISABLED = "DISABLED"
    UNKNOWN = "UNKNOWN"
    STALE = "STALE"
    ERROR = "ERROR"


class ErrorCode(StrEnum):
    """Why an evaluation gave no proper value. Set here: TARGETING_KEY_MISSING and PARSE_ERROR; callers set the others."""

    PROVIDER_NOT_READY = "PROVIDER_NOT_READY"
    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    PARSE_ERROR = "PARSE_ERROR"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    TARGETING_KEY_MISSING = "TARGETING_KEY_MISSING"
    INVALID_CONTEXT = "INVALID_CONTEXT"
    GENERAL = "GENERAL"


@dataclass(frozen=True, slots=True)
class Context:
    """The user that a flag is evaluated for.

    `user_id` may be empty: then nobody is targeted, and a flag that buckets by user id gives its default.
    `attributes` are JSON values; those of other types match nothing. An attribute named `user_id` is
    shadowed by the user id. Raises TypeError if `user_id` is not a string: 123 is not "123" on the server.
    """

    user_id: str = ""
    attributes: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.user_id, str):
            raise TypeError(f"user_id must be a string, not {type(self.user_id).__name__}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a flag for one context.

    `value` belongs to the caller, who may change it if it is an object or an array. `enabled` is the value of a boolean
    flag; for the others, whether the flag is enabled and serves a variant other than its off variant.

    `error_code` is set with reason ERROR, and then `variant` and `value` are the flag's default. OpenFeature
    asks for both in abnormal execution (requirements 1.4.8 and 1.4.9); its SDKs then give the application the
    default of the call instead.
    """

    flag_name: str
    value: Json
    variant: str
    reason: Reason
    enabled: bool
    version: int
    error_code: ErrorCode | None = None
    error_message: str = ""
    explanation: Explanation | None = None
