"""The protos as Lua tables, by which the gateway checks REST requests (deploy/lua/rest.lua).

    ROUTES    by room, which is the first word of the path after /api/v1/, or "": {{pattern, "GET, PUT", {fields that the
              path gives}, {GET = MESSAGES[...], ...}}, ...}; the first match counts
    MESSAGES  by name: `fields` by each name that JSON may use; `known`, the members as an error lists them; `partial` if
              the message changes only the members that it names
    field     name; kind (`KINDS`, `message`, `any`, `object`, `time`); shape (`list`, `map`); message; `oneof` (its name);
              `ignored` if it is output only; `keeps` if the stored value stays when the field is left out

If a field has a type that Lua does not know, the service does not start, and `make lint` fails.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from configsvc.gateway.routes import HTTP_METHODS, Route, routes

KINDS = {
    FieldDescriptor.CPPTYPE_STRING: "string",
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_INT32: "int32",
    FieldDescriptor.CPPTYPE_INT64: "int64",
    FieldDescriptor.CPPTYPE_DOUBLE: "double",
}
# Messages whose JSON is not an object of their fields.
WELL_KNOWN = {
    "google.protobuf.Value": "any",
    "google.protobuf.Struct": "object",
    "google.protobuf.Timestamp": "time",
    "google.protobuf.FieldMask": "string",
}
# POST methods that overwrite an existing resource, as PUT does.
UPSERTS = ("RegisterInstance",)


def lua_tables() -> str:
    """The statements that define the tables."""
    known = routes()
    resources = {m.input_type: _resource(m, http_method) for route in known for http_method, m in route.methods.items()}
    statements: dict[str, list[str]] = {}
    for message in resources:
        _describe(message, resources, statements)
    return "\n".join(
        [
            "local MESSAGES = {}",
            *(f"MESSAGES[{_text(name)}] = {{fields = {{}}}}" for name in statements),
            *(line for lines in statements.values() for line in lines),
            "local ROUTES = {}",
            *(f"ROUTES[{_text(room)}] = {{\n{lines}\n}}" for room, lines in _rooms(known).items()),
            "",
        ]
    )


def map_value(member: FieldDescriptor) -> FieldDescriptor:
    """The field of a map's values; of any other field, the field itself."""
    entry = member.message_type
    return entry.fields_by_name["value"] if entry is not None and entry.GetOptions().map_entry else member


def field_table(member: FieldDescriptor) -> str:
    """A field as a Lua table, without its braces."""
    value, nested = map_value(member), _nested(member)
    parts = [f"name = {_text(member.name)}"]
    if nested is not None:
        parts.append(f'kind = "message", message = {_message(nested)}')
    elif value.message_type is not None:
        parts.append(f"kind = {_text(WELL_KNOWN[value.message_type.full_name])}")
    else:
        parts.append(f"kind = {_text(KINDS[value.cpp_type])}")
    if member.is_repeated:
        parts.append(f"shape = {_text('list' if value is member else 'map')}")
    elif member.has_presence and member.message_type is None:
        parts.append("keeps = true")
    if member.containing_oneof is not None and not member.containing_oneof.name.startswith("_"):
        # In angle brackets, so that it differs from every field's name.
        parts.append(f"oneof = {_text(f'<{member.containing_oneof.name}>')}")
    return ", ".join(parts)


def _rooms(known: Sequence[Route]) -> dict[str, str]:
    """The routes of each room, so that a request is not compared with all patterns."""
    rooms: dict[str, list[str]] = {}
    for route in known:
        room = re.match(r"/api/v1/([a-z-]+)", route.template)
        rooms.setdefault(room[1] if room else "", []).append(_route(route))
    return {room: "\n".join(lines) for room, lines in rooms.items()}


def _route(route: Route) -> str:
    allowed = ", ".join(http_method for http_method in HTTP_METHODS if http_method in route.methods)
    parameters = ", ".join(map(_text, route.parameters))
    messages = ", ".join(f"{name} = {_message(method.input_type)}" for name, method in sorted(route.methods.items()))
    return f"  {{{_text(route.pattern)}, {_text(allowed)}, {{{parameters}}}, {{{messages}}}}},"


def _resource(method: MethodDescriptor, http_method: str) -> Descriptor | None:
    """The resource that a write replaces or changes. Such a write accepts the body of a GET, output-only fields too."""
    if http_method not in ("PUT", "PATCH") and method.name not in UPSERTS:
        return None
    rule: Any = method.GetOptions().Extensions[annotations_pb2.http]
    resource = method.output_type.fields_by_name[rule.response_body].message_type
    assert resource is not None, "a response_body is a message"
    return resource


def _describe(
    message: Descriptor, resources: Mapping[Descriptor, Descriptor | None], statements: dict[str, list[str]]
) -> None:
    """Adds the statements that describe a message and the messages in it.

    An operation of a batch is described as the request that it holds.
    """
    if message.full_name in statements:
        return
    lines = statements[message.full_name] = []
    names = [member.name for member in message.fields]
    lines.append(f"{_message(message)}.known = {_text(', '.join(names))}")
    if "update_mask" in names:
        lines.append(f"{_message(message)}.partial = true")
    for member in message.fields:
        nested = _nested(member)
        if nested is not None:
            _describe(nested, resources, statements)
        lines.append(_assignment(message, member, field_table(member)))
    resource = resources.get(message)
    output_only = [] if resource is None else [member for member in resource.fields if member.name not in names]
    lines += [_assignment(message, member, f"name = {_text(member.name)}, ignored = true") for member in output_only]


def _assignment(message: Descriptor, member: FieldDescriptor, table: str) -> str:
    """Makes a field known by both of its names in JSON."""
    fields = f"{_message(message)}.fields"
    first = f"{fields}[{_text(member.name)}]"
    if member.json_name == member.name:
        return f"{first} = {{{table}}}"
    return f"{first} = {{{table}}}; {fields}[{_text(member.json_name)}] = {first}"


def _nested(member: FieldDescriptor) -> Descriptor | None:
    """The message whose fields are the members of a field's JSON; None if there is none."""
    message: Descriptor | None = map_value(member).message_type
    return None if message is None or message.full_name in WELL_KNOWN else message


def _message(message: Descriptor) -> str:
    return f"MESSAGES[{_text(message.full_name)}]"


def _text(value: str) -> str:
    assert value.isprintable(), "Lua and JSON write only printable text alike"
    return json.dumps(value)
