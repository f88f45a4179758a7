"""All methods and routes, read from the descriptors, so that a new RPC is fuzzed without a change here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2, health_pb2, registry_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor

_VERBS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Rpc:
    """One gRPC method."""

    path: str
    request: Descriptor
    streams_requests: bool
    streams_answers: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One REST route. `template` has its variables in braces, as in google.api.http."""

    method: str
    template: str
    request: Descriptor
    has_body: bool
    streams: bool

    @property
    def variables(self) -> list[str]:
        """The request's fields in the path."""
        return [name.partition("=")[0] for name in re.findall(r"{([^}]+)}", self.template)]


def _methods() -> Iterator[MethodDescriptor]:
    for module in (config_pb2, flag_pb2, registry_pb2, change_pb2, health_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def rpcs() -> list[Rpc]:
    """All methods."""
    return [
        Rpc(
            f"/{method.containing_service.full_name}/{method.name}",
            method.input_type,
            method.client_streaming,
            method.server_streaming,
        )
        for method in _methods()
    ]


def routes() -> list[Route]:
    """All REST routes."""
    routes_found = []
    for method in _methods():
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            for verb in _VERBS:
                template = getattr(binding, verb)
                if template:
                    routes_found.append(
                        Route(verb.upper(), template, method.input_type, bool(binding.body), method.server_streaming)
                    )
    return routes_found
