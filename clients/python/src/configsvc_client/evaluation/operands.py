"""What conditions compare: numbers, texts, versions, instants. (Networks and patterns have modules of their own.)

Operands belong to a flag: each is parsed once, when the flag is compiled, and a parser of an operand raises ValueError
with what is allowed. Attributes belong to a context, which is never refused: a parser of an attribute returns None.
"""

import math
import re
from datetime import date
from typing import Any, Final

from configsvc_client.evaluation import limits

Json = Any

# A context's numbers come as doubles, which can't tell larger integers apart: 2^53 and 2^53 + 1 are one double.
OPERAND_TOO_LARGE: Final = (
    f"must not be a number beyond {limits.LARGEST_EXACT_INTEGER} (2^53-1), which can't be compared exactly; an id is a text:"
    " send it as a string"
)

# (major, minor, patch, release, pre-release identifiers); tuples order as Semantic Versioning 2.0.0 §11 says.
Version = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]
# Nanoseconds since 0001-01-01T00:00:00Z.
Instant = int


_NUMERIC: Final = r"(?:0|[1-9][0-9]*)"
_IDENTIFIERS: Final = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION: Final = re.compile(
    rf"({_NUMERIC})(?:\.({_NUMERIC}))?(?:\.({_NUMERIC}))?(?:-({_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?"
)
_INSTANT: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_NANOSECONDS: Final = 10**9
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def number(value: Json) -> float | None:
    """A JSON number as the double that every JSON client and protobuf make of it; None for anything else.

    Booleans are not numbers. NaN, infinities and integers beyond a double's range are not JSON numbers.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        double = float(value)
    except OverflowError:
        return None
    return double if math.isfinite(double) else None


def storable(text: str) -> bool:
    """Whether a text can be kept everywhere: PostgreSQL refuses NUL, UTF-8 has no lone surrogates."""
    return "\0" not in text and (text.isascii() or not _SURROGATE.search(text))


def version(text: Json) -> Version | None:
    """A semantic version; None if the text is not one. Build metadata does not count.

    A missing minor or patch is 0, as in LaunchDarkly: applications report "2.1". No leading `v`.
    """
    if not isinstance(text, str) or len(text) > limits.OPERAND_CHARACTERS:
        return None
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    major, minor, patch, pre = match.groups()
    identifiers = pre.split(".") if pre else []
    if any(i.isdigit() and len(i) > 1 and i[0] == "0" for i in identifiers):
        return None
    # Numeric identifiers are below the others; a release is above all its pre-releases.
    key = tuple((False, int(i), "") if i.isdigit() else (True, 0, i) for i in identifiers)
    return int(major), int(minor or 0), int(patch or 0), not identifiers, key


def instant(text: Json) -> Instant | None:
    """An RFC 3339 date and time as nanoseconds; None if the text is not one. Finer fractions are cut off."""
    if not isinstance(text, str) or len(text) > limits.OPERAND_CHARACTERS:
        return None
    match = _INSTANT.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hour, offset_minute = match.groups()[6:]
    offset = int(offset_hour or 0) * 60 + int(offset_minute or 0)
    # 60 is a leap second, which RFC 3339 §5.6 allows.
    if hour > 23 or minute > 59 or second > 60:
        return None
    if int(offset_hour or 0) > 23 or int(offset_minute or 0) > 59:
        return None
    try:
        days = date(year, month, day).toordinal()
    except ValueError:
        return None
    minutes = (days * 24 + hour) * 60 + minute - (-offset if sign == "-" else offset)
    nanoseconds = int((fraction or "")[:9].ljust(9, "0"))
    return (minutes * 60 + second) * _NANOSECONDS + nanoseconds


def scalar_operand(operand: Json) -> bool | float | str:
    """An operand of equality."""
    if isinstance(operand, bool | str):
        return _bounded(operand) if isinstance(operand, str) else operand
    return _finite(operand, "must be a string, a boolean or a finite number")


def number_operand(operand: Json) -> float:
    """An operand of a numeric comparison."""
    return _finite(operand, "must be a finite number")


def text_operand(operand: Json) -> str:
    """An operand of a text search."""
    if not isinstance(operand, str) or not operand:
        raise ValueError("must be a string that is not empty")
    return _bounded(operand)


def version_operand(operand: Json) -> Version:
    """An operand of a version comparison."""
    parsed = version(operand)
    if parsed is None:
        raise ValueError("must be a semantic version such as '2.1.0' or '2.1.0-beta.1' (semver.org)")
    return parsed


def instant_operand(operand: Json) -> Instant:
    """An operand of a date comparison."""
    parsed = instant(operand)
    if parsed is None:
        raise ValueError("must be an RFC 3339 date and time such as '2026-01-31T12:00:00Z'")
    return parsed


def _bounded(operand: str) -> str:
    most = limits.CONDITION_VALUE_CHARACTERS
    if len(operand) > most:
        raise ValueError(f"must be at most {most} characters; it has {len(operand)}")
    if not storable(operand):
        raise ValueError("must not have NUL or lone surrogates")
    return operand


def _finite(operand: Json, allowed: str) -> float:
    double = number(operand)
    if double is None:
        raise ValueError(allowed)
    if abs(double) > limits.LARGEST_EXACT_INTEGER:
        raise ValueError(OPERAND_TOO_LARGE)
    return double
