"""A node as the JSON that Curator's service discovery writes (`ServiceInstance` by `JsonInstanceSerializer`).

JVM services on Curator or Spring Cloud ZooKeeper read ours, and we read theirs.

Ours. `payload` is null, since each reader casts it to a class of its own: Spring's fail on a map, all others on Spring's.
What is this service's own (owner, generation, the registration) is in a member beside it, which Curator passes over.
`uriSpec` is the URL as it was registered, word for word: Curator's variables have no scheme but http and https. An
instance that is not healthy has `"enabled": false`.

An earlier release reads a node of this form as another program's. It then neither replaces nor deletes it, and knows
from the records who owns the instance; only what it is to take over is not shown before the old session has ended.

Theirs. Any bytes may be there: `from_json` gives a node that can be discovered, or raises `ValueError`.
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

# The member with what is our own.
OWN = "configsvc"
_OWNER, _GENERATION, _REGISTRATION = "owner", "generation", "registration"
_PORTS = {"http": 80, "https": 443}
METADATA_ENTRIES = Limits().metadata_entries
# Of a node's name, which is the id of a foreign instance.
ID_CHARACTERS = 256
# Where Spring Cloud says that an instance takes no requests (`StatusConstants`).
_SPRING_STATUS, _SPRING_UP = "instance_status", "UP"
# registrationTimeUTC, in milliseconds: up to the year 9999.
_LATEST_MS = 253_402_300_799_999


def to_json(node: Node) -> bytes:
    """The node's data."""
    written = str(node.payload.get("service_url", ""))
    url = urlsplit(written)
    secure = url.scheme == "https"
    port = url.port or _PORTS.get(url.scheme)
    host = url.hostname or ""
    return json.dumps(
        {
            "name": node.service,
            "id": node.instance_id,
            # In brackets, since readers put host and port together themselves.
            "address": f"[{host}]" if ":" in host else host,
            "port": None if secure else port,
            "sslPort": port if secure else None,
            "payload": None,
            "registrationTimeUTC": _milliseconds(node.payload.get("registered_at")),
            "serviceType": "DYNAMIC",
            "uriSpec": {"parts": [{"value": written, "variable": False}]},
            "enabled": node.payload.get("status", HEALTHY) == HEALTHY,
            OWN: {_OWNER: node.owner, _GENERATION: node.generation, _REGISTRATION: node.payload},
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def from_json(service: str, instance_id: str, data: bytes) -> Node:
    """The node that lies at this path: ours, in this form or the one before; or a foreign one, without an owner.

    The payload of a foreign one has `service_url`, `metadata`, `status`, and `registered_at` if it says when.

    Raises:
        ValueError: it is not the JSON of an instance that can be discovered.
    """
    if not 0 < len(instance_id) <= ID_CHARACTERS or not instance_id.isprintable():
        raise ValueError(f"its name must have 1 to {ID_CHARACTERS} printable characters")
    try:
        return _node(service, instance_id, _decoded(data))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _node(service: str, instance_id: str, source: Mapping[str, Any]) -> Node:
    payload = source.get("payload")
    for own in (source.get(OWN), payload):
        if isinstance(own, dict) and (node := _own(service, instance_id, own)) is not None:
            return node
    metadata = _metadata(payload)
    found: dict[str, object] = {
        "service_url": url_of(source),
        "metadata": metadata,
        "status": HEALTHY if _takes_requests(source, metadata) else OUT_OF_SERVICE,
    }
    at = source.get("registrationTimeUTC")
    if isinstance(at, int) and not isinstance(at, bool) and 0 < at <= _LATEST_MS:
        found["registered_at"] = datetime.fromtimestamp(at / 1000, UTC).isoformat()
    return Node(service, instance_id, "", 0, found)


def _own(service: str, instance_id: str, own: Mapping[str, Any]) -> Node | None:
    match (own.get(_OWNER), own.get(_GENERATION), own.get(_REGISTRATION)):
        case (str(owner), int(generation), dict(registration)) if owner and not isinstance(generation, bool):
            return Node(service, instance_id, owner, generation, registration)
    return None


def _decoded(data: bytes) -> Mapping[str, Any]:
    if not data:
        raise ValueError("it has no data")
    text = data.decode("utf-8-sig")
    source = json.loads(text, parse_constant=_no_number)
    if "\\u" in text:
        # An escaped half of a surrogate pair is no character, and can be sent to nobody.
        json.dumps(source, ensure_ascii=False).encode()
    if not isinstance(source, dict):
        raise ValueError("an instance is a JSON object")
    return source


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _metadata(payload: object) -> dict[str, str]:
    """The payload's members as texts; Spring Cloud has them one level down.

    What is no text is given as its JSON (`8080`, `true`, `["a"]`). Null, what is longer than a registration's metadata
    may be, and Jackson's type names are left out.
    """
    if not isinstance(payload, dict):
        return {}
    inner = payload.get("metadata")
    members = inner if isinstance(inner, dict) else payload
    found: dict[str, str] = {}
    for name, value in members.items():
        if value is None or name.startswith("@") or not 0 < len(name) <= LABEL_CHARACTERS:
            continue
        text = value if isinstance(value, str) else _as_json(value)
        if len(text) <= METADATA_VALUE_CHARACTERS and len(found) < METADATA_ENTRIES:
            found[name] = text
    return found


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
