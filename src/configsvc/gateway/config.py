"""Envoy's configuration for one run: `deploy/envoy.yaml`, with the parts filled in that differ from run to run.

Each Lua script that it names gets its settings as a table before its text. Their values are checked texts
(`settings.py`).
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from configsvc.gateway.descriptors import descriptor_set, paths_of_single_requests
from configsvc.gateway.lua_tables import lua_tables
from configsvc.gateway.replies import TOO_LARGE, mappers, status_details
from configsvc.rpc.services import SERVICES
from configsvc.settings import Settings

# The name of the workers' cluster in deploy/envoy.yaml.
CLUSTER = "configsvc"
# While the only worker is replaced or restarted, requests wait for it by these retries, up to a second apart, until the
# route's time-out. With several workers, there is another one at once.
RETRIES_OF_ONE_WORKER = 20
# The scripts that a script is built on, in the order in which they must be defined. `TABLES` stands for the text of
# gateway/lua_tables.py.
TABLES = ""
REST_LIBRARIES = ("lua/admission.lua", TABLES, "lua/json_body.lua", "lua/free_json.lua", "lua/body_members.lua")
LIBRARIES = {
    "lua/rest.lua": REST_LIBRARIES,
    "lua/head.lua": (*REST_LIBRARIES, "lua/rest.lua"),
    "lua/grpc.lua": ("lua/admission.lua",),
}


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the gateway listens and whom it calls, who may call it, and its limits.

    `admin_path` is the socket of Envoy's admin interface. `endpoints` are `unix:/path` or `host:port`, one for each
    worker; or `endpoints_file` is a file of them that Envoy watches (`endpoints.py`). `hosts` are the names that a Host
    header may have (None: any). `origins` are the web sites whose pages may call.
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
    endpoints_file: str = ""

    @classmethod
    def of(
        cls, settings: Settings, admin_path: str, endpoints: Sequence[str], endpoints_file: str = ""
    ) -> "GatewaySettings":
        """From the service's settings."""
        return cls(
            host=settings.host,
            port=settings.port,
            admin_path=admin_path,
            endpoints=endpoints,
            request_bytes=settings.max_request_bytes,
            memory_bytes=settings.gateway_memory_bytes,
            connections=settings.max_connections,
            hosts=settings.host_names,
            origins=settings.origins,
            endpoints_file=endpoints_file,
        )


def envoy_config(settings: GatewaySettings) -> dict[str, Any]:
    """The configuration as Envoy's bootstrap message, ready to be written as JSON."""
    config: dict[str, Any] = yaml.safe_load(_text("envoy.yaml"))
    config["admin"]["address"] = {"pipe": {"path": settings.admin_path, "mode": 0o600}}
    listener = config["static_resources"]["listeners"][0]
    listener["address"]["socket_address"] = {"address": settings.host, "port_value": settings.port}
    cluster = config["static_resources"]["clusters"][0]
    if settings.endpoints_file:
        del cluster["load_assignment"]
        source = {"path_config_source": {"path": settings.endpoints_file}, "resource_api_version": "V3"}
        cluster |= {"type": "EDS", "eds_cluster_config": {"eds_config": source}}
        # Envoy takes no files of others without a name of its own.
        config["node"] = {"id": CLUSTER, "cluster": CLUSTER}
    else:
        cluster["load_assignment"] = cluster_load_assignment(settings.endpoints)
    for manager in _messages(listener, ".HttpConnectionManager"):
        manager["local_reply_config"] = {"mappers": mappers()}
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                route["request_body_buffer_limit"] = settings.request_bytes
                if len(settings.endpoints) == 1 and "retry_policy" in route["route"]:
                    route["route"]["retry_policy"]["num_retries"] = RETRIES_OF_ONE_WORKER
    for lua in _messages(listener, ".Lua"):
        for source in (lua["default_source_code"], *lua.get("source_codes", {}).values()):
            source["inline_string"] = _lua_settings(settings) + _script(source.pop("filename"))
    for policy in _messages(listener, ".CorsPolicy"):
        policy["allow_origin_string_match"] = [_origin(origin) for origin in settings.origins]
    for heap in _messages(config, ".FixedHeapConfig"):
        heap["max_heap_size_bytes"] = settings.memory_bytes
    for connections in _messages(config, ".DownstreamConnectionsConfig"):
        connections["max_active_downstream_connections"] = settings.connections
    for buffer in _messages(listener, ".Buffer"):
        buffer["max_request_bytes"] = settings.request_bytes
    descriptors = base64.b64encode(descriptor_set()).decode()
    for transcoder in _messages(listener, ".GrpcJsonTranscoder"):
        del transcoder["proto_descriptor"]
        transcoder["proto_descriptor_bin"] = descriptors
        transcoder["services"] = [service.descriptor.full_name for service in SERVICES]
        transcoder["max_request_body_size"] = settings.request_bytes
    return config


def cluster_load_assignment(addresses: Sequence[str]) -> dict[str, Any]:
    """The workers, as the field of that name in Envoy's messages."""
    return {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [_endpoint(address) for address in addresses]}]}


def _script(name: str) -> str:
    """The text of a Lua filter, with the text that it is built on before it."""
    libraries = (lua_tables() if library == TABLES else _text(library) for library in LIBRARIES.get(name, ()))
    return "\n".join((*libraries, _text(name)))


def _lua_settings(settings: GatewaySettings) -> str:
    table = {
        "hosts": None if settings.hosts is None else dict.fromkeys(sorted(settings.hosts), True),
        "origins": dict.fromkeys(settings.origins, True),
        "one_message": dict.fromkeys(paths_of_single_requests(), True),
        "request_bytes": settings.request_bytes,
        "too_large": status_details(TOO_LARGE),
        "too_large_message": TOO_LARGE.message,
    }
    return f"local SETTINGS = {_lua(table)}\n"


def _lua(value: Any) -> str:
    """A Lua literal. Lua and JSON write a text of printable ASCII alike."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{_lua(key)}] = {_lua(item)}" for key, item in value.items() if item is not None) + "}"
    return json.dumps(value)


def _origin(origin: str) -> dict[str, Any]:
    return {"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin}


def _text(name: str) -> str:
    """The text of a file in `deploy/`."""
    packaged = files("configsvc") / "deploy" / name
    if packaged.is_file():
        return packaged.read_text("utf-8")
    # An editable install: the file is in the repository.
    return (Path(__file__).resolve().parents[3] / "deploy" / name).read_text("utf-8")


def _endpoint(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"endpoint": {"address": {"pipe": {"path": address.removeprefix("unix:")}}}}
    host, _, port = address.rpartition(":")
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


def _messages(node: Any, message_type: str) -> Iterator[dict[str, Any]]:
    """Every message whose type ends so, at any depth."""
    if isinstance(node, dict):
        if str(node.get("@type", "")).endswith(message_type):
            yield node
        for value in node.values():
            yield from _messages(value, message_type)
    elif isinstance(node, list):
        for value in node:
            yield from _messages(value, message_type)
