"""JSON values and times."""

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, Protocol

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from configsvc.domain.json_values import LARGEST_EXACT_INTEGER, MISSING, Json
from configsvc.domain.records import JsonObject
from configsvc.domain.sizes import size_problem
from configsvc.errors import InvalidInput

# One number of a list in the wire form of `ListValue`: field 1 with nine bytes, in which field 2 has eight.
_NUMBER, _NUMBER_PREFIX = struct.Struct("<3sd"), b"\x0a\x09\x11"
_EPOCH, _DAY_SECONDS = datetime(1970, 1, 1, tzinfo=UTC), 86_400
# Shorter lists are converted item by item.
LONG_LIST = 64


class HasValue(Protocol):
    """A message with an optional `google.protobuf.Value`."""

    @property
    def value(self) -> Value: ...

    def HasField(self, field_name: Literal["value"], /) -> bool: ...  # noqa: N802


def json_of(value: Value) -> Json:
    """JSON from a Value. A Value's numbers are doubles; a whole number that a double carries exactly becomes an integer."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "struct_value":
        return {name: json_of(item) for name, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return _numbers(value.list_value) or [json_of(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def _numbers(found: ListValue) -> list[int | float] | None:
    """The list, if it is long and has numbers alone; None for others. Such a list can have hundreds of thousands of items."""
    if len(found.values) < LONG_LIST or found.ByteSize() != len(found.values) * _NUMBER.size:
        return None
    items = list(_NUMBER.iter_unpack(found.SerializeToString()))
    if any(prefix != _NUMBER_PREFIX for prefix, _ in items):
        return None
    return [_number(number) for _, number in items]


def _number(number: float) -> int | float:
    # -0.0 stays a float: an integer has no negative zero.
    whole = number.is_integer() and abs(number) <= LARGEST_EXACT_INTEGER and (number or str(number)[0] != "-")
    return int(number) if whole else number


def json_or_missing(message: HasValue, path: str = "value") -> Json:
    """The JSON of a message's field `value`; MISSING if it is not set, or if the Value in it is empty. Null is a value.

    Raises:
        InvalidInput: a list or an object is too large to be stored. The size is checked before the items are read:
            hundreds of thousands of items would block the event loop for a second.
    """
    kind = message.value.WhichOneof("kind") if message.HasField("value") else None
    if kind is None:
        return MISSING
    if kind in ("list_value", "struct_value") and (problem := size_problem(message.value.ByteSize())):
        raise InvalidInput.of(path, problem)
    return json_of(message.value)


def value_of(json: Json, into: Value | None = None) -> Value:
    """A Value from JSON."""
    value = Value() if into is None else into
    if json is None:
        value.null_value = 0  # type: ignore[assignment]
    elif isinstance(json, bool):
        value.bool_value = json
    elif isinstance(json, int | float):
        value.number_value = json
    elif isinstance(json, str):
        value.string_value = json
    elif isinstance(json, Mapping):
        value.struct_value.SetInParent()
        for name, item in json.items():
            value_of(item, value.struct_value.fields[name])
    else:
        value.list_value.SetInParent()
        if len(json) >= LONG_LIST and {int, float}.issuperset(map(type, json)):
            # Converting each item alone takes ten times as long.
            packed = b"".join([_NUMBER.pack(_NUMBER_PREFIX, item) for item in json])
            value.list_value.MergeFromString(packed)
            return value
        for item in json:
            value_of(item, value.list_value.values.add())
    return value


def struct_of(json: JsonObject) -> Struct:
    """A Struct from a JSON object."""
    return value_of(json).struct_value


def timestamp(at: datetime) -> Timestamp:
    """A Timestamp from an aware time."""
    message = Timestamp()
    set_timestamp(message, at)
    return message


def set_timestamp(message: Timestamp, at: datetime) -> None:
    """Sets a new Timestamp to an aware time. A field that is set in place need not be copied."""
    # `Timestamp.FromDatetime` takes three times as long.
    since = at - _EPOCH
    message.seconds = since.days * _DAY_SECONDS + since.seconds
    message.nanos = since.microseconds * 1_000


def time_of(value: Timestamp, field: str) -> datetime:
    """An aware time. Raises `InvalidInput` of `field` if the Timestamp is out of range."""
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput.of(field, "must be a time from the year 1 to 9999") from error
