"""Converts a flag's protobuf message to the JSON of its definition, by the message's own descriptor: this package does
not import protobuf.
"""

from typing import Any

from configsvc_client.evaluation import limits

Json = Any

_VALUE = "google.protobuf.Value"
# Fields that are not part of the definition; times and the revision would need types of their own.
_OMITTED = frozenset({"etag", "revision", "created_at", "updated_at", "updated_by"})


def json_of_message(message: Any) -> dict[str, Json]:
    """The fields that are set, by their names in the proto. Raises `TypeError` if this is not a protobuf message."""
    if not hasattr(message, "ListFields"):
        raise TypeError(f"must be a configsvc.v1.Flag message, not {type(message).__name__}")
    return {field.name: _plain(value) for field, value in message.ListFields() if field.name not in _OMITTED}


def _plain(value: Any) -> Json:
    if hasattr(value, "ListFields"):
        return _of_value(value) if value.DESCRIPTOR.full_name == _VALUE else json_of_message(value)
    if isinstance(value, bool | int | float | str):
        return value
    return [_plain(item) for item in value]


def _of_value(value: Any) -> Json:
    """The JSON of a `google.protobuf.Value`. Its numbers are doubles; a whole one is an integer here, as REST shows it."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number: float = value.number_value
        is_whole = number.is_integer() and abs(number) <= limits.LARGEST_EXACT_INTEGER
        # -0.0 stays a double: the integer 0 has no sign.
        return int(number) if is_whole and (number or str(number)[0] != "-") else number
    if kind == "struct_value":
        return {name: _of_value(item) for name, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_of_value(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)
