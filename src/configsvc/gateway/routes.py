"""The REST routes, from the google.api.http annotations of the protos."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from configsvc.rpc.services import SERVICES

# In the order in which an `Allow` header lists them.
HTTP_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_PARAMETER = re.compile(r"\{(\w+)(?:=([^}]*))?\}")
_LUA_MAGIC = re.compile(r"[\^$()%.\[\]*+?-]")


@dataclass(frozen=True, slots=True)
class Route:
    """A path of REST, and its RPCs by HTTP method.

    `template` is the path as the protos write it, `pattern` the same as a Lua pattern. `parameters` are the fields that
    the path gives.
    """

    pattern: str
    template: str
    parameters: tuple[str, ...]
    methods: dict[str, MethodDescriptor] = field(default_factory=dict)


def routes() -> Sequence[Route]:
    """All routes, in the order in which they must be tried: literal paths first, and long templates before short ones."""
    by_pattern: dict[str, Route] = {}
    for service in SERVICES:
        for method in service.descriptor.methods:
            for http_method, template in _bindings(method):
                parameters = tuple(name for name, _ in _PARAMETER.findall(template))
                pattern = _pattern(template)
                route = by_pattern.setdefault(pattern, Route(pattern, template, parameters))
                route.methods[http_method] = method
    return sorted(by_pattern.values(), key=lambda r: (r.template.count("**"), len(r.parameters), -len(r.template)))


def _bindings(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    """The HTTP method and the path of each binding."""
    rule: Any = method.GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        http_method = binding.WhichOneof("pattern")
        if http_method:
            yield http_method.upper(), getattr(binding, http_method)


def _pattern(template: str) -> str:
    """A path template as a Lua pattern."""
    text, end = "^", 0
    for parameter in _PARAMETER.finditer(template):
        text += _LUA_MAGIC.sub(r"%\g<0>", template[end : parameter.start()])
        text += "(.+)" if parameter[2] == "**" else "([^/]+)"
        end = parameter.end()
    return text + _LUA_MAGIC.sub(r"%\g<0>", template[end:]) + "$"
