"""Envoy's configuration for one run: `deploy/envoy.yaml` with what differs from run to run filled in.

The Lua that it names gets its settings as a table before its text. They are checked texts (`settings.py`).
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2 as grpc_health_pb2

from configsvc.gateway import routes
from configsvc.gateway.replies import TOO_LARGE, details, mappers

# What Envoy needs to turn messages into JSON: the services, and everything that an error's details may hold.
DESCRIBED = (*routes.SERVED, error_details_pb2, status_pb2)

# The one that looks into requests.
REST_SCRIPT = "lua/rest.lua"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where things are in one run, and who may call.

    `endpoints` are `unix:/path` or `host:port`, one for each worker; `hosts` are the names that the Host header may have
    (None: any); `origins` are the sites whose pages may call.
    """

    host: str
    port: int
    admin_path: str
    endpoints: Sequence[str]
    request_bytes: int
    memory_bytes: int = 1 << 30
    connections: int = 10_000
    hosts: frozenset[str] | None = None
    origins: Sequence[str] = ()


def descriptor_set() -> bytes:
    """The serialized descriptors of all services and everything they import, dependencies first."""
    found: dict[str, FileDescriptor] = {}
    for module in DESCRIBED:
        for file in _with_imports(module.DESCRIPTOR):
            found.setdefault(file.name, file)
    described = FileDescriptorSet()
    for file in found.values():
        proto = described.file.add()
        proto.ParseFromString(file.serialized_pb)
        _unwrap(proto, file)
    return described.SerializeToString()


def _unwrap(proto: FileDescriptorProto, file: FileDescriptor) -> None:
    """Makes the resource itself the answer of each method that has a `response_body`.

    Envoy knows `response_body` only for google.api.HttpBody. So in its descriptors such a method returns the field's
    message, and the server sends just that to calls that come from here (`rpc/interceptors/messages.py`).
    """
    for service in proto.service:
        for method in service.method:
            rule = method.options.Extensions[annotations_pb2.http]
            if rule.response_body:
                response = file.services_by_name[service.name].methods_by_name[method.name].output_type
                resource = response.fields_by_name[rule.response_body].message_type
                assert resource is not None, "a response_body is a message"
                method.output_type = f".{resource.full_name}"
                for binding in (rule, *rule.additional_bindings):
                    binding.ClearField("response_body")


def rendered(placement: Placement) -> dict[str, Any]:
    """The configuration as Envoy's bootstrap message, ready to be written as JSON."""
    config: dict[str, Any] = yaml.safe_load(_text("envoy.yaml"))
    config["admin"]["address"] = {"pipe": {"path": placement.admin_path, "mode": 0o600}}
    listener = config["static_resources"]["listeners"][0]
    listener["address"]["socket_address"] = {"address": placement.host, "port_value": placement.port}
    cluster = config["static_resources"]["clusters"][0]
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [_endpoint(e) for e in placement.endpoints]
    descriptors = base64.b64encode(descriptor_set()).decode()
    for manager in _messages(listener, ".HttpConnectionManager"):
        manager["local_reply_config"] = {"mappers": mappers()}
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                route["request_body_buffer_limit"] = placement.request_bytes
    for script in _messages(listener, ".Lua"):
        text = _script(script["default_source_code"]["filename"])
        script["default_source_code"] = {"inline_string": _settings_in_lua(placement) + text}
    for policy in _messages(listener, ".CorsPolicy"):
        policy["allow_origin_string_match"] = [_origin(origin) for origin in placement.origins]
    for heap in _messages(config, ".FixedHeapConfig"):
        heap["max_heap_size_bytes"] = placement.memory_bytes
    for connections in _messages(config, ".DownstreamConnectionsConfig"):
        connections["max_active_downstream_connections"] = placement.connections
    for buffer in _messages(listener, ".Buffer"):
        buffer["max_request_bytes"] = placement.request_bytes
    for transcoder in _messages(listener, ".GrpcJsonTranscoder"):
        del transcoder["proto_descriptor"]
        transcoder["proto_descriptor_bin"] = descriptors
        transcoder["max_request_body_size"] = placement.request_bytes
    return config


def _script(name: str) -> str:
    """A Lua filter, behind what it is built on."""
    if name != REST_SCRIPT:
        return _text(name)
    return "\n".join(
        (
            routes.lua(),
            _text("lua/json_body.lua"),
            _text("lua/free_json.lua"),
            _text("lua/body_members.lua"),
            _text(name),
        )
    )


def one_message_paths() -> Iterator[str]:
    """The paths of the gRPC methods whose request is no stream."""
    for module in (*DESCRIBED, grpc_health_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if not method.client_streaming:
                    yield f"/{service.full_name}/{method.name}"


def _settings_in_lua(placement: Placement) -> str:
    table = {
        "hosts": None if placement.hosts is None else dict.fromkeys(sorted(placement.hosts), True),
        "origins": dict.fromkeys(placement.origins, True),
        "one_message": dict.fromkeys(one_message_paths(), True),
        "request_bytes": placement.request_bytes,
        "too_large": details(TOO_LARGE),
        "too_large_message": TOO_LARGE.message,
    }
    return f"local SETTINGS = {_lua(table)}\n"


def _lua(value: Any) -> str:
    """A Lua literal. A text of printable ASCII is the same in JSON."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{_lua(key)}] = {_lua(item)}" for key, item in value.items() if item is not None) + "}"
    return json.dumps(value)


def _origin(origin: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin}


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    for imported in file.dependencies:
        yield from _with_imports(imported)
    yield file


def _text(name: str) -> str:
    """A file of `deploy/`."""
    packaged = files("configsvc") / "deploy" / name
    if packaged.is_file():
        return packaged.read_text("utf-8")
    # An editable install: the file is where people edit it.
    return (Path(__file__).resolve().parents[3] / "deploy" / name).read_text("utf-8")


def _endpoint(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"endpoint": {"address": {"pipe": {"path": address.removeprefix("unix:")}}}}
    host, _, port = address.rpartition(":")
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


def _messages(node: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Every message of a kind, wherever it is."""
    if isinstance(node, dict):
        if str(node.get("@type", "")).endswith(kind):
            yield node
        for value in node.values():
            yield from _messages(value, kind)
    elif isinstance(node, list):
        for value in node:
            yield from _messages(value, kind)
