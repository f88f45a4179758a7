"""Messages whose fields are the members of a JSON object."""

from collections.abc import Collection, Mapping
from typing import Any

from configsvc_client.v1 import flag_pb2
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from configsvc.domain.flag_filter import FlagFilter
from configsvc.domain.json_values import Json
from configsvc.rpc.convert.values import json_of, time_of, value_of
from configsvc.rpc.requests import field_mask

# The fields of a flag that an update can write.
FLAG_FIELDS = field_mask.writable_fields(flag_pb2.UpdateFlagRequest, flag_pb2.Flag, identity=("name", "environment"))
# Fields of a CreateFlagRequest that do not belong to the definition.
_NOT_DEFINITION = frozenset({"reason", "request_id"})


def definition(request: flag_pb2.CreateFlagRequest) -> dict[str, Any]:
    """A flag's definition as the evaluation package reads it."""
    return members(request, {field.name for field in request.DESCRIPTOR.fields} - _NOT_DEFINITION)


def flag_filter(request: flag_pb2.ListFlagsRequest) -> FlagFilter:
    """Which flags a list selects."""
    created, updated = request.created_before, request.updated_before
    return FlagFilter(
        enabled=request.enabled if request.HasField("enabled") else None,
        tags=(*request.tags, *request.tags_brackets),
        owner=request.owner if request.HasField("owner") else None,
        created_before=time_of(created, "created_before") if request.HasField("created_before") else None,
        updated_before=time_of(updated, "updated_before") if request.HasField("updated_before") else None,
    )


def members(message: Message, names: Collection[str]) -> dict[str, Any]:
    """These fields as JSON, in the order of the message."""
    return {
        field.name: _plain(getattr(message, field.name), field)
        for field in message.DESCRIPTOR.fields
        if field.name in names
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
    """Sets the fields that the JSON names. Members that the message does not have are skipped."""
    for name, json in body.items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            continue
        is_value = field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"
        if is_value and field.has_presence:
            # A single Value. The field's type decides, not the JSON, which may be an array.
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
