"""Messages that have the members of a JSON object as their fields."""

from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from configsvc.domain.json_values import Json
from configsvc.rpc.convert.values import json_of, value_of

# Fields of a CreateFlagRequest that are not part of the definition.
NOT_DEFINITION = frozenset({"reason", "request_id"})


def definition(request: Any) -> dict[str, Any]:
    """A flag's definition as the evaluation package reads it."""
    return members(request, {field.name for field in request.DESCRIPTOR.fields} - NOT_DEFINITION)


def members(request: Any, named: Collection[str]) -> dict[str, Any]:
    """These fields as JSON, in the order of the message."""
    return {
        field.name: _plain(getattr(request, field.name), field)
        for field in request.DESCRIPTOR.fields
        if field.name in named
    }


def _plain(value: Any, field: Any) -> Json:
    """A field's value as JSON, lists and messages included."""
    if isinstance(value, Value):
        return json_of(value)
    if isinstance(value, Message):
        return {inner.name: _plain(getattr(value, inner.name), inner) for inner in value.DESCRIPTOR.fields}
    if isinstance(value, str | bytes | bool | int | float):
        return value
    return [_plain(item, field) for item in value]


def fill(message: Any, body: Mapping[str, Any]) -> None:
    """Sets the fields that the JSON names; what the message does not know is left out."""
    for name, json in body.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            continue
        is_value = field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"
        if is_value and field.has_presence:
            # One Value: what the field is decides, and not what its JSON looks like, which may be an array.
            value_of(json, getattr(message, name))
        elif not isinstance(json, list):
            setattr(message, name, json)
        elif field.message_type is None:
            getattr(message, name).extend(json)
        else:
            for item in json:
                inner = getattr(message, name).add()
                if is_value:
                    value_of(item, inner)
                else:
                    fill(inner, item)
