"""What the gateway knows of REST, as Lua made of the protos: every route, and every member that a body may have.

    ROUTES    {{pattern, "GET, PUT", {fields of the path}, {GET = MESSAGES[...], ...}}, ...}; the first that matches counts
    MESSAGES  by name: `fields` by the names that JSON may use, `known`, the members as an error lists them, and whether
              it is `partial`: writes what is named
    field     name, kind (KINDS, `message`, `any`, `object`, `time`), shape (`list`, `map`), message, `oneof` (its name),
              and whether it is `ignored` (output only) or `keeps` what is there if it is left out

A field of a kind that the Lua does not know stops the service at its start, and `make lint` before it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2, health_pb2, registry_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

SERVED = (config_pb2, flag_pb2, registry_pb2, change_pb2, health_pb2)

# As an `Allow` header lists them.
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
KINDS = {
    FieldDescriptor.CPPTYPE_STRING: "string",
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_INT32: "int32",
    FieldDescriptor.CPPTYPE_INT64: "int64",
    FieldDescriptor.CPPTYPE_DOUBLE: "double",
}
# Messages that are no objects of their fields in JSON.
WELL_KNOWN = {
    "google.protobuf.Value": "any",
    "google.protobuf.Struct": "object",
    "google.protobuf.Timestamp": "time",
    "google.protobuf.FieldMask": "string",
}
# A POST that writes over what is there, as a PUT does.
UPSERTS = ("RegisterInstance",)

_PARAMETER = re.compile(r"\{(\w+)(?:=([^}]*))?\}")
_LUA_MAGIC = re.compile(r"[\^$()%.\[\]*+?-]")


@dataclass(frozen=True, slots=True)
class Route:
    """A path of REST, and its methods by HTTP method. `parameters`: the fields that the path gives."""

    pattern: str
    template: str
    parameters: tuple[str, ...]
    methods: dict[str, MethodDescriptor] = field(default_factory=dict)


def routes() -> Sequence[Route]:
    """All of them, in the order in which they are tried: literal paths, then long templates before short ones."""
    found: dict[str, Route] = {}
    for method in _methods():
        for verb, template in _bindings(method):
            named = tuple(name for name, _ in _PARAMETER.findall(template))
            route = found.setdefault(_pattern(template), Route(_pattern(template), template, named))
            route.methods[verb] = method
    return sorted(found.values(), key=lambda r: (r.template.count("**"), len(r.parameters), -len(r.template)))


def lua() -> str:
    """The tables, as statements."""
    known = routes()
    resources = {m.input_type: _resource(m, verb) for route in known for verb, m in route.methods.items()}
    described: dict[str, list[str]] = {}
    for descriptor in resources:
        _describe(descriptor, resources, described)
    lines = ["local MESSAGES = {}"]
    lines += [f"MESSAGES[{_text(name)}] = {{fields = {{}}}}" for name in described]
    lines += [line for statements in described.values() for line in statements]
    lines.append("local ROUTES = {")
    for route in known:
        allowed = ", ".join(verb for verb in METHODS if verb in route.methods)
        named = ", ".join(map(_text, route.parameters))
        messages = ", ".join(f"{verb} = {_message(m.input_type)}" for verb, m in sorted(route.methods.items()))
        lines.append(f"  {{{_text(route.pattern)}, {_text(allowed)}, {{{named}}}, {{{messages}}}}},")
    return "\n".join([*lines, "}", ""])


def _methods() -> Iterator[MethodDescriptor]:
    for module in SERVED:
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def _bindings(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    """The HTTP method and the path of each binding."""
    rule: Any = method.GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        if verb:
            yield verb.upper(), getattr(binding, verb)


def _pattern(template: str) -> str:
    """A path's template as a pattern of Lua."""
    text, end = "^", 0
    for parameter in _PARAMETER.finditer(template):
        text += _LUA_MAGIC.sub(r"%\g<0>", template[end : parameter.start()])
        text += "(.+)" if parameter[2] == "**" else "([^/]+)"
        end = parameter.end()
    return text + _LUA_MAGIC.sub(r"%\g<0>", template[end:]) + "$"


def _resource(method: MethodDescriptor, verb: str) -> Descriptor | None:
    """The resource that a write is over: the body of its GET can be sent back."""
    if verb not in ("PUT", "PATCH") and method.name not in UPSERTS:
        return None
    answered = method.GetOptions().Extensions[annotations_pb2.http].response_body
    resource = method.output_type.fields_by_name[answered].message_type
    assert resource is not None, "a response_body is a message"
    return resource


def _describe(
    message: Descriptor, resources: Mapping[Descriptor, Descriptor | None], described: dict[str, list[str]]
) -> None:
    """Adds the statements that describe a message, and those for the messages in it: an operation of a batch is the
    request of a call, and takes what that takes.
    """
    if message.full_name in described:
        return
    statements = described[message.full_name] = []
    names = [f.name for f in message.fields]
    statements.append(f"{_message(message)}.known = {_text(', '.join(names))}")
    if "update_mask" in names:
        statements.append(f"{_message(message)}.partial = true")
    for member in message.fields:
        nested = _nested(member)
        if nested is not None:
            _describe(nested, resources, described)
        statements.append(_member(message, member, _field(member, nested)))
    resource = resources.get(message)
    output_only = [] if resource is None else [f for f in resource.fields if f.name not in names]
    statements += [_member(message, f, f"name = {_text(f.name)}, ignored = true") for f in output_only]


def _member(message: Descriptor, member: FieldDescriptor, described: str) -> str:
    fields = f"{_message(message)}.fields"
    first = f"{fields}[{_text(member.name)}]"
    if member.json_name == member.name:
        return f"{first} = {{{described}}}"
    return f"{first} = {{{described}}}; {fields}[{_text(member.json_name)}] = {first}"


def _field(member: FieldDescriptor, nested: Descriptor | None) -> str:
    value = value_of(member)
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
        # In brackets: no field's name.
        parts.append(f"oneof = {_text(f'<{member.containing_oneof.name}>')}")
    return ", ".join(parts)


def value_of(member: FieldDescriptor) -> FieldDescriptor:
    """The field itself, or that of a map's values."""
    entry = member.message_type
    return entry.fields_by_name["value"] if entry is not None and entry.GetOptions().map_entry else member


def _nested(member: FieldDescriptor) -> Descriptor | None:
    """The message whose members are a field's members in JSON."""
    found: Descriptor | None = value_of(member).message_type
    return None if found is None or found.full_name in WELL_KNOWN else found


def _message(message: Descriptor) -> str:
    return f"MESSAGES[{_text(message.full_name)}]"


def _text(value: str) -> str:
    assert value.isprintable(), "what Lua and JSON write alike"
    return json.dumps(value)
