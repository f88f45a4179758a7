"""JSON values: which are refused, how large a value is, and how two values differ."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configsvc.domain.sizes import MEASURED_CHARACTERS, sending_problem

Json = Any

# `json.dumps` with options makes an encoder for each call.
_encode_compactly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_encode_sorted = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_encode_for_digest = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode

# Beyond this integer a double, and so most JSON clients, can't tell neighbouring integers apart.
LARGEST_EXACT_INTEGER = 2**53 - 1

# Matches the compact JSON of every value with a number that is not finite, or beyond `LARGEST_EXACT_INTEGER`: such a number
# has 16 digits or an exponent. A text can match, too, so a match only means that every number must be checked.
_LONG_NUMBER = re.compile(r"[0-9]{16}").search
_INEXACT_PARTS = ("e+", "NaN", "Infinity")
# Values that contain no other values. A list can have hundreds of thousands; an isinstance check of an ABC is slow.
_SCALARS = (str, int, float, type(None))

# Protobuf readers refuse a message that is nested more than 100 levels deep. A level of JSON takes up to three of them, and
# a value is nested deeper in a list or a watch than in the request that wrote it. Without this bound a value could be
# written that can't be read.
NESTED_LEVELS = 30


@dataclass(frozen=True, slots=True)
class Absent:
    """No value. None can't mean that: it is JSON's null."""


# A side of a difference that has no value.
ABSENT = Absent()
# A value that a request does not set; `problem` refuses it.
MISSING = Absent()
MISSING_VALUE = "is required: any JSON value, null included"


@dataclass(frozen=True, slots=True)
class Difference:
    """One step from one JSON value to another: `path` is a JSON Pointer (RFC 6901), `op` as in RFC 6902."""

    path: str
    op: str
    before: Json | Absent
    after: Json | Absent


def encoded(value: Json) -> str:
    """Compact JSON text."""
    return _encode_compactly(value)


def digest(*parts: Json) -> str:
    """A fingerprint of JSON values: the same for the same content. The order of object members does not count."""
    text = _encode_for_digest(parts)
    return hashlib.sha256(text.encode()).hexdigest()


def problem(value: Json, max_bytes: int) -> str:
    """Why a value can't be stored and returned as it was sent; empty if it can."""
    if value is MISSING:
        return MISSING_VALUE
    if is_nested_too_deeply(value):
        return f"must not have objects and lists more than {NESTED_LEVELS} deep"
    text = encoded(value)
    if not isinstance(value, str) and _is_perhaps_inexact(text) and (found := _number_problem(value)):
        return found
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        return f"must be at most {max_bytes} bytes of JSON; it has {size}"
    return sending_problem(value) if size > MEASURED_CHARACTERS else ""


def is_nested_too_deeply(value: Json) -> bool:
    """Whether objects and lists are nested more than `NESTED_LEVELS` deep."""
    level: list[Json] = [value]
    for _ in range(NESTED_LEVELS):
        level = [item for outer in level for item in _items(outer) if not isinstance(item, _SCALARS)]
        if not level:
            return False
    return any(isinstance(item, Mapping) or _is_list(item) for item in level)


def _is_perhaps_inexact(text: str) -> bool:
    # One expression for all of them would take longer: a search for a plain text is fast.
    return any(part in text for part in _INEXACT_PARTS) or _LONG_NUMBER(text) is not None


def _number_problem(value: Json) -> str:
    for number in _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            return "must not have NaN or Infinity: JSON has no such numbers"
        # A double beyond this integer has no fraction, so it is an integer, too.
        if abs(number) > LARGEST_EXACT_INTEGER:
            return (
                f"must not have integers beyond {LARGEST_EXACT_INTEGER} (2^53-1), which JSON clients round:"
                " send it as a string"
            )
    return ""


def differences(before: Json, after: Json) -> tuple[Difference, ...]:
    """The steps that turn `before` into `after`, in the order of the paths. Lists are compared by position."""
    return tuple(_differences("", before, after))


def changed_members(before: Mapping[str, Json] | None, after: Mapping[str, Json] | None) -> tuple[str, ...]:
    """The members whose values differ; none if a side is missing.

    A member that `before` was stored without counts as its default: false, zero or empty.
    """
    if before is None or after is None:
        return ()
    names = dict.fromkeys((*after, *before))
    return tuple(name for name in names if not _is_same(before.get(name), after.get(name), name in before))


def _is_same(before: Json, after: Json, known: bool) -> bool:
    return _is_equal(before, after) if known else not after


def _is_equal(one: Json, other: Json) -> bool:
    """Whether the JSON texts are equal, apart from the order of members. For Python, 1, 1.0 and true are equal."""
    if isinstance(one, _SCALARS) or isinstance(other, _SCALARS):
        return _is_same_scalar(one, other)
    return _sorted_text(one) == _sorted_text(other)


def _is_same_scalar(one: Json, other: Json) -> bool:
    # Only the text tells -0.0 from 0.0.
    return type(one) is type(other) and one == other and (type(one) is not float or str(one) == str(other))


def _sorted_text(value: Json) -> str:
    return _encode_sorted(value)


def _differences(path: str, before: Json | Absent, after: Json | Absent) -> Iterator[Difference]:
    if isinstance(before, Absent):
        yield Difference(path, "add", ABSENT, after)
    elif isinstance(after, Absent):
        yield Difference(path, "remove", before, ABSENT)
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            step = name.replace("~", "~0").replace("/", "~1")
            yield from _differences(f"{path}/{step}", before.get(name, ABSENT), after.get(name, ABSENT))
    elif _is_list(before) and _is_list(after):
        for index in range(max(len(before), len(after))):
            if index < min(len(before), len(after)) and _is_same_scalar(before[index], after[index]):
                continue
            yield from _differences(
                f"{path}/{index}",
                before[index] if index < len(before) else ABSENT,
                after[index] if index < len(after) else ABSENT,
            )
    elif not _is_same_scalar(before, after):
        yield Difference(path, "replace", before, after)


def _is_list(value: Json) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _items(value: Json) -> Sequence[Json]:
    if isinstance(value, _SCALARS):
        return ()
    return tuple(value.values()) if isinstance(value, Mapping) else value if _is_list(value) else ()


def _numbers(value: Json) -> Iterator[int | float]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif _is_list(value):
        for item in value:
            yield from _numbers(item)
