"""The oracle for the gateway's Lua: which bodies are valid by Python's JSON reader and protobuf's."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MOST_NESTED = 100
_NUMBERS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class NotStrict(ValueError):
    """The body is not JSON, or is ambiguous."""


def members(body: bytes, message: Message) -> set[str]:
    """The members that a body names, as the proto names them. Raises `NotStrict` or `json_format.ParseError`."""
    document = strict(body)
    if not isinstance(document, dict):
        raise NotStrict("not an object")
    try:
        json_format.ParseDict(document, message, max_recursion_depth=200)
    except AttributeError as error:
        # protobuf raises this for null in place of a list of google.protobuf.Value.
        raise NotStrict("null is not a list") from error
    _check_members(document, message.DESCRIPTOR, top=True)
    by_name = {name: f.name for f in message.DESCRIPTOR.fields for name in (f.name, f.json_name)}
    return {by_name[name] for name in document}


def strict(body: bytes) -> Any:
    """Reads JSON of RFC 8259 in UTF-8: each member once, no lone surrogate, no number beyond doubles, at most 100 levels."""
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise NotStrict(str(error)) from error
    for depth, value in _walk(document, 1):
        if depth > MOST_NESTED and isinstance(value, dict | list):
            raise NotStrict("too deep")
        if isinstance(value, float) and not math.isfinite(value):
            raise NotStrict("not a double")
        if isinstance(value, str) and _LONE_SURROGATE.search(value):
            raise NotStrict("a lone surrogate")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise NotStrict("a duplicate member")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise NotStrict(name)


def _integer(text: str) -> int | float:
    if not math.isfinite(float(text)):
        raise NotStrict("not a double")
    return int(text)


def _walk(value: Any, depth: int) -> Iterator[tuple[int, Any]]:
    yield depth, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield depth, name
            yield from _walk(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, depth + 1)


def _check_members(document: dict[str, Any], message: Any, *, top: bool) -> None:
    """Checks what protobuf accepts and the gateway does not.

    These are a member by both of its names if one is null, null for a field that keeps its value if left out, and false
    for 0.
    """
    by_name = {name: f for f in message.fields for name in (f.name, f.json_name)}
    if len({by_name[name].name for name in document}) < len(document):
        raise NotStrict("a duplicate member")
    for name, value in document.items():
        member = by_name[name]
        optional = member.has_presence and member.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE
        if value is None and optional and (not top or member.name == "etag"):
            raise NotStrict(f"{name} is null")
        if member.cpp_type in _NUMBERS and any(isinstance(v, bool) for v in (value if member.is_repeated else [value])):
            raise NotStrict(f"{name} is not a number")
        nested = member.message_type
        if nested is not None and nested.file.package == message.file.package and not nested.GetOptions().map_entry:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict):
                    _check_members(item, nested, top=False)
