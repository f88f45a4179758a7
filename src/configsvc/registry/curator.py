"""A node as the JSON that Curator's service discovery writes (`ServiceInstance` by `JsonInstanceSerializer`).

JVM services on Curator or Spring Cloud ZooKeeper read this service's nodes, and this service reads theirs.

Own nodes: `payload` is null, because each reader casts it to a class of its own: Spring's readers fail on a map, and all
others fail on Spring's class. The owner, the generation and the registration are in a separate member, which Curator
ignores. `uriSpec` is the URL as it was registered, as one literal part: Curator's variables know only the schemes http and
https. An instance that is not healthy has `"enabled": false`.

An earlier release reads a node of this form as foreign. So it neither replaces nor deletes it. It knows from the records who
owns the instance. An instance that it takes over is not shown before the old session has ended.

Foreign nodes: their data may be any bytes. `from_json` returns a node that can be discovered, or raises `ValueError`.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

from configsvc.domain.instances import HEALTHY, OUT_OF_SERVICE
from configsvc.domain.limits import Limits
from configsvc.domain.registrations import LABEL_CHARACTERS, METADATA_VALUE_CHARACTERS
from configsvc.registry.port import Node
from configsvc.registry.uri_spec import url_of

# The member with the owner, the generation and the registration.
OWN_MEMBER = "configsvc"
_OWNER, _GENERATION, _REGISTRATION = "owner", "generation", "registration"
_PORTS = {"http": 80, "https": 443}
METADATA_ENTRIES = Limits().metadata_entries
# The longest name of a node. The name is the id of a foreign instance.
ID_CHARACTERS = 256
# The metadata entry by which Spring Cloud says whether an instance takes requests (`StatusConstants`).
_SPRING_STATUS, _SPRING_UP = "instance_status", "UP"
# The largest registrationTimeUTC, in milliseconds: the year 9999.
_LATEST_MS = 253_402_300_799_999


def to_json(node: Node) -> bytes:
    """The data of an own node."""
    service_url = str(node.payload.get("service_url", ""))
    url = urlsplit(service_url)
    secure = url.scheme == "https"
    port = url.port or _PORTS.get(url.scheme)
    host = url.hostname or ""
    return json.dumps(
        {
            "name": node.service,
            "id": node.instance_id,
            # In brackets, because readers join host and port themselves.
            "address": f"[{host}]" if ":" in host else host,
            "port": None if secure else port,
            "sslPort": port if secure else None,
            "payload": None,
            "registrationTimeUTC": _milliseconds(node.payload.get("registered_at")),
            "serviceType": "DYNAMIC",
            "uriSpec": {"parts": [{"value": service_url, "variable": False}]},
            "enabled": node.payload.get("status", HEALTHY) == HEALTHY,
            OWN_MEMBER: {_OWNER: node.owner, _GENERATION: node.generation, _REGISTRATION: node.payload},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def from_json(service: str, instance_id: str, data: bytes) -> Node:
    """The node with this data: an own node, of this release or an earlier one, or a foreign node, without an owner.

    The payload of a foreign node has `service_url`, `metadata`, `status`, and perhaps `registered_at`.

    Raises:
        ValueError: the data is not the JSON of an instance that can be discovered.
    """
    if not 0 < len(instance_id) <= ID_CHARACTERS or not instance_id.isprintable():
        raise ValueError(f"its name must have 1 to {ID_CHARACTERS} printable characters")
    try:
        return _node(service, instance_id, _decoded(data))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _node(service: str, instance_id: str, source: Mapping[str, Any]) -> Node:
    payload = source.get("payload")
    # Earlier releases wrote the own member as the payload.
    for member in (source.get(OWN_MEMBER), payload):
        if isinstance(member, dict) and (node := _own_node(service, instance_id, member)) is not None:
            return node
    metadata = _metadata(payload)
    read: dict[str, object] = {
        "service_url": url_of(source),
        "metadata": metadata,
        "status": HEALTHY if _takes_requests(source, metadata) else OUT_OF_SERVICE,
    }
    at = source.get("registrationTimeUTC")
    if isinstance(at, int) and not isinstance(at, bool) and 0 < at <= _LATEST_MS:
        read["registered_at"] = datetime.fromtimestamp(at / 1000, UTC).isoformat()
    return Node(service, instance_id, "", 0, read)


def _own_node(service: str, instance_id: str, member: Mapping[str, Any]) -> Node | None:
    match (member.get(_OWNER), member.get(_GENERATION), member.get(_REGISTRATION)):
        case (str(owner), int(generation), dict(registration)) if owner and not isinstance(generation, bool):
            return Node(service, instance_id, owner, generation, registration)
    return None


def _decoded(data: bytes) -> Mapping[str, Any]:
    if not data:
        raise ValueError("it has no data")
    text = data.decode("utf-8-sig")
    source = json.loads(text, parse_constant=_refuse_constant)
    if "\\u" in text:
        # An escaped half of a surrogate pair is not a character, and can't be sent.
        json.dumps(source, ensure_ascii=False).encode()
    if not isinstance(source, dict):
        raise ValueError("an instance is a JSON object")
    return source


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _metadata(payload: object) -> dict[str, str]:
    """The payload's members as strings; Spring Cloud nests them in a member `metadata`.

    A value that is not a string is given as its JSON (`8080`, `true`, `["a"]`). Null, values that are too long for a
    registration's metadata, and Jackson's type names are left out.
    """
    if not isinstance(payload, dict):
        return {}
    nested = payload.get("metadata")
    members = nested if isinstance(nested, dict) else payload
    metadata: dict[str, str] = {}
    for name, value in members.items():
        if value is None or name.startswith("@") or not 0 < len(name) <= LABEL_CHARACTERS:
            continue
        text = value if isinstance(value, str) else _as_json(value)
        if len(text) <= METADATA_VALUE_CHARACTERS and len(metadata) < METADATA_ENTRIES:
            metadata[name] = text
    return metadata


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _takes_requests(source: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
    enabled = source.get("enabled")
    if enabled not in (None, True, False, "true", "false"):
        raise ValueError("enabled must be true or false")
    status = metadata.get(_SPRING_STATUS, "").strip()
    return enabled not in (False, "false") and (not status or status.upper() == _SPRING_UP)


def _milliseconds(time: object) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000) if isinstance(time, str) else 0
