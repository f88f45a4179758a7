"""JSON values: what is refused, how large one is, and how two differ."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configsvc.domain.sizes import MEASURED_CHARACTERS, sending_problem

Json = Any

# Beyond this a double, and so most JSON clients, can't tell neighbouring integers apart.
LARGEST_EXACT_INTEGER = 2**53 - 1

# What compact JSON has at least once where a number is no finite one, or an integer beyond `LARGEST_EXACT_INTEGER`: those
# have 16 digits or an exponent. Text may have it too, so it says only that every number has to be looked at.
_PERHAPS_INEXACT = re.compile(r"[0-9]{16}|e\+|NaN|Infinity").search
# The values that have no others inside. A list may have hundreds of thousands: these are told apart without an ABC.
_SCALARS = (str, int, float, type(None))

# Protobuf readers refuse a message that is nested more than 100 deep. A level of JSON takes up to three, and a value
# travels deeper in a list or a watch than in the request that wrote it: without a bound it could be written, not read.
NESTED_LEVELS = 30


@dataclass(frozen=True, slots=True)
class Absent:
    """Stands for a side of a difference that has no value, since None is a value."""


ABSENT = Absent()
# A request's value that was not given; `problem` says so.
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
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def digest(*parts: Json) -> str:
    """A fingerprint of JSON values: equal for equal content, whatever the order of object members."""
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def problem(value: Json, max_bytes: int) -> str:
    """Why a value can't be kept and given back as it was sent; empty where it can."""
    if value is MISSING:
        return MISSING_VALUE
    if is_nested_too_deeply(value):
        return f"must not have objects and lists more than {NESTED_LEVELS} deep"
    text = encoded(value)
    if _PERHAPS_INEXACT(text) and (found := _number_problem(value)):
        return found
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        return f"must be at most {max_bytes} bytes of JSON; it has {size}"
    return sending_problem(value) if size > MEASURED_CHARACTERS else ""


def is_nested_too_deeply(value: Json) -> bool:
    """Whether objects and lists are in each other more than `NESTED_LEVELS` deep."""
    level: list[Json] = [value]
    for _ in range(NESTED_LEVELS):
        level = [item for outer in level for item in _items(outer) if not isinstance(item, _SCALARS)]
    return any(isinstance(item, Mapping) or _is_list(item) for item in level)


def _number_problem(value: Json) -> str:
    for number in _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            return "must not have NaN or Infinity: JSON has no such numbers"
        # A double that large has no fraction.
        if abs(number) > LARGEST_EXACT_INTEGER:
            return (
                f"must not have integers beyond {LARGEST_EXACT_INTEGER} (2^53-1), which JSON clients round:"
                " send it as a string"
            )
    return ""


def differences(before: Json, after: Json) -> tuple[Difference, ...]:
    """What has to change in `before` to give `after`, in the order of the paths. Lists are compared by position."""
    return tuple(_differences("", before, after))


def changed_members(before: Mapping[str, Json] | None, after: Mapping[str, Json] | None) -> tuple[str, ...]:
    """The members whose values differ; none if a side is missing.

    A member that was not kept yet when `before` was stored counts as its default: false, zero or empty.
    """
    if before is None or after is None:
        return ()
    names = dict.fromkeys((*after, *before))
    return tuple(name for name in names if not _is_same(before.get(name), after.get(name), name in before))


def _is_same(before: Json, after: Json, known: bool) -> bool:
    return _is_equal(before, after) if known else not after


def _is_equal(one: Json, other: Json) -> bool:
    """Equal as JSON text, whatever the order of members: Python takes 1, 1.0 and true for equal."""
    if isinstance(one, _SCALARS) or isinstance(other, _SCALARS):
        return _is_same_scalar(one, other)
    return _sorted_text(one) == _sorted_text(other)


def _is_same_scalar(one: Json, other: Json) -> bool:
    # A float's sign of zero is seen in its text alone.
    return type(one) is type(other) and one == other and (type(one) is not float or str(one) == str(other))


def _sorted_text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


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
