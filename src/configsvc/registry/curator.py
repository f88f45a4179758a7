"""A node as the JSON that Curator's service discovery writes (`ServiceInstance` by `JsonInstanceSerializer`).

JVM services on Curator or Spring Cloud ZooKeeper read ours, and we read theirs. What is this service's own (owner,
generation, the registration) lies in `payload`, which is any JSON object to Curator.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from configsvc.registry.port import Node

# What we put into the payload beside the registration.
_OWNER, _GENERATION, _REGISTRATION = "owner", "generation", "registration"
_SECURE = ("https",)
_PORTS = {"http": 80, "https": 443}
_HOST_PARTS = (
    {"value": "scheme", "variable": True},
    {"value": "://", "variable": False},
    {"value": "address", "variable": True},
    {"value": ":", "variable": False},
    {"value": "port", "variable": True},
)


def to_json(node: Node) -> bytes:
    """The node's data."""
    url = urlsplit(str(node.payload.get("service_url", "")))
    secure = url.scheme in _SECURE
    port = url.port or _PORTS.get(url.scheme)
    path = url._replace(scheme="", netloc="").geturl()
    return json.dumps(
        {
            "name": node.service,
            "id": node.instance_id,
            "address": url.hostname or "",
            "port": None if secure else port,
            "sslPort": port if secure else None,
            "payload": {_OWNER: node.owner, _GENERATION: node.generation, _REGISTRATION: node.payload},
            "registrationTimeUTC": _milliseconds(node.payload.get("registered_at")),
            "serviceType": "DYNAMIC",
            "uriSpec": {"parts": [*_HOST_PARTS, *([{"value": path, "variable": False}] if path else [])]},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def from_json(service: str, instance_id: str, data: bytes) -> Node:
    """The node that lies at this path: ours, or a foreign one, without an owner.

    Raises:
        ValueError: it is not the JSON of an instance.
    """
    source = json.loads(data)
    if not isinstance(source, dict):
        raise ValueError("an instance is a JSON object")
    payload = source.get("payload")
    if isinstance(payload, dict):
        match (payload.get(_OWNER), payload.get(_GENERATION), payload.get(_REGISTRATION)):
            case (str(owner), int(generation), dict(registration)) if owner:
                return Node(service, instance_id, owner, generation, registration)
    return Node(service, instance_id, "", 0, {"service_url": _url(source), "metadata": _metadata(payload)})


def _url(source: Mapping[str, Any]) -> str:
    """What Curator's `buildUriSpec` gives: the parts, with the variables filled in; without parts, the usual ones."""
    secure = source.get("sslPort") is not None
    values = {
        **{name: value for name, value in source.items() if isinstance(value, str | int)},
        "scheme": "https" if secure else "http",
        "port": source.get("sslPort") if secure else source.get("port"),
    }
    specification = source.get("uriSpec")
    parts = specification.get("parts") if isinstance(specification, dict) else None
    if isinstance(parts, list) and all(isinstance(part, dict) for part in parts):
        return "".join(
            str(values.get(part.get("value")) or "") if part.get("variable") else str(part.get("value", ""))
            for part in parts
        )
    port = f":{values['port']}" if values["port"] else ""
    return f"{values['scheme']}://{source.get('address', '')}{port}"


def _metadata(payload: object) -> dict[str, str]:
    """The payload's texts; Spring Cloud has them one level down."""
    if not isinstance(payload, dict):
        return {}
    inner = payload.get("metadata")
    found = inner if isinstance(inner, dict) else payload
    return {name: value for name, value in found.items() if isinstance(value, str) and not name.startswith("@")}


def _milliseconds(time: object) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000) if isinstance(time, str) else 0
