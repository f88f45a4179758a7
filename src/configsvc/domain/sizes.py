"""The size of a resource as a message, and the limit above which it can't be sent.

Stock gRPC clients of all languages refuse a message above 4 MiB, unless they are configured otherwise. So no answer is
larger, and a write of a resource that does not fit into one message is refused. Otherwise nobody could read the resource,
or a list or a watch that includes it.

JSON and messages differ: a list of small numbers takes 2 bytes of JSON for each, and 11 in a `google.protobuf.Value`.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from configsvc.domain.records import JsonObject, Kind
from configsvc.errors import InvalidInput

# What every stock gRPC client takes.
MESSAGE_BYTES = 4 << 20
# For the items of an answer. The rest is for the page token and the other fields.
ANSWER_BYTES = MESSAGE_BYTES - (64 << 10)
# For the contents of one resource. The rest is for its identity, author and reason, which take at most 24 KiB with the
# longest keys that the settings allow.
RESOURCE_BYTES = MESSAGE_BYTES - (128 << 10)

# A character of compact JSON takes at most 6 bytes in a message (the two of `1,` take 11). Shorter texts need no measuring.
_BYTES_A_CHARACTER = 6
MEASURED_CHARACTERS = RESOURCE_BYTES // _BYTES_A_CHARACTER

_NUMBERS = (int, float)


def message_bytes(value: Any) -> int:
    """The exact size of a JSON value as a `google.protobuf.Value`."""
    if isinstance(value, str):
        return _delimited(_text_bytes(value))
    if value is None or isinstance(value, bool):
        return 2
    if isinstance(value, int | float):
        return 9
    if isinstance(value, Mapping):
        return _delimited(
            sum(_delimited(_delimited(_text_bytes(name)) + _delimited(message_bytes(v))) for name, v in value.items())
        )
    # A list can have hundreds of thousands of numbers.
    kinds = Counter(map(type, value))
    numbers = kinds[int] + kinds[float]
    others = (item for item in value if type(item) not in _NUMBERS) if numbers < len(value) else ()
    return _delimited(11 * numbers + sum(_delimited(message_bytes(item)) for item in others))


def held_bytes(text: str | None) -> int:
    """An estimate of the memory that a JSON value takes, from its text alone.

    A short text or number takes much more memory than its characters; an empty object takes 64 bytes. Measured with
    CPython 3.11, the estimate is never below half of the real size.
    """
    if text is None:
        return 0
    return sys.getsizeof(text) + 64 * (text.count(",") + text.count("[")) + 240 * text.count("{")


def sending_problem(value: Any) -> str:
    """Why a stock client could not receive a value; empty if it can."""
    return size_problem(message_bytes(value))


def size_problem(size: int) -> str:
    """Why a stock client could not receive a value of this size as a message; empty if it can."""
    if size <= RESOURCE_BYTES:
        return ""
    return (
        f"must be at most {RESOURCE_BYTES} bytes as a protobuf message, since gRPC clients take messages of 4 MiB;"
        f" it has {size} (a number takes 11 bytes in a list, a text its UTF-8)"
    )


def check_sendable(kind: Kind, body: JsonObject) -> None:
    """Raises `InvalidInput` if a stock client could not receive a resource with this body. It names the largest member."""
    problem = sending_problem(body)
    if problem:
        largest = max(body, key=lambda name: message_bytes(body[name]))
        raise InvalidInput.of(largest, f"makes the {kind.value} too large: it {problem}", "RESOURCE_TOO_LARGE")


def _text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _delimited(size: int) -> int:
    """The size with a tag and a length in front."""
    return 1 + (size.bit_length() + 6) // 7 + size if size else 2
