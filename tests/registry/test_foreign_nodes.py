"""Whatever another program writes, its node can be discovered and sent, or is left out."""

import gc
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from configsvc_client.v1 import registry_pb2
from google.protobuf.json_format import MessageToJson
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.domain.instances import HEALTHY, OUT_OF_SERVICE, Instance
from configsvc.domain.registrations import METADATA_VALUE_CHARACTERS, URL_CHARACTERS
from configsvc.registry import curator
from configsvc.registry.port import Node
from configsvc.rpc import convert

NOW = datetime(2025, 1, 1, tzinfo=UTC)

# The variables of Curator's UriSpec.
VARIABLES = (
    "scheme", "name", "id", "address", "port", "ssl-port", "registration-time-utc", "service-type", "[", "]", "none",
)  # fmt: skip
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "a\udfff", "9" * 30]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
hosts = st.sampled_from(["h", "10.0.0.7", "::1", "[::1]", "fe80::1%eth0", "H.example", "", "a b", "h/../x", "u:p@h"])
parts = st.builds(
    lambda value, variable: {"value": value, "variable": variable},
    st.sampled_from(VARIABLES) | st.sampled_from(["://", ":", "/a?b=c", "http://", "["]) | anything,
    st.booleans() | anything,
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A valid value, or any other value."""
    return st.one_of(good, good, good, anything)


own = st.fixed_dictionaries({"owner": mostly(st.text()), "generation": mostly(st.integers()), "registration": anything})
documents = st.fixed_dictionaries(
    {},
    optional={
        "name": mostly(st.text()),
        "id": mostly(st.text()),
        "address": mostly(hosts),
        "port": mostly(st.integers(0, 70_000)),
        "sslPort": mostly(st.integers(0, 70_000) | st.none()),
        "payload": mostly(own | st.dictionaries(st.text(), anything, max_size=3)),
        "registrationTimeUTC": mostly(st.integers(0, 2**45)),
        "serviceType": mostly(st.sampled_from(["DYNAMIC", "STATIC"])),
        "uriSpec": mostly(st.builds(lambda given: {"parts": given}, mostly(st.lists(parts, max_size=8)))),
        "enabled": mostly(st.booleans()),
        "configsvc": mostly(own),
    },
)


def discovered(data: bytes, instance_id: str = "one") -> Instance | None:
    """The instance as callers get it, in both encodings; None if the node is left out or own."""
    try:
        node = curator.from_json("svc", instance_id, data)
    except ValueError:
        return None
    if node.owner:
        return None
    found = Instance.foreign("svc", instance_id, node.payload, NOW)
    message = convert.instance(found)
    assert registry_pb2.Instance.FromString(message.SerializeToString()) == message
    assert MessageToJson(message).encode()
    assert found.status in (HEALTHY, OUT_OF_SERVICE)
    assert 0 < len(found.service_url) <= URL_CHARACTERS
    assert all(len(value) <= METADATA_VALUE_CHARACTERS for value in found.metadata.values())
    return found


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_instance_or_left_out(data: bytes) -> None:
    discovered(data)


@settings(max_examples=400, deadline=None)
@given(documents)
def test_wrong_type_of_any_member_is_an_instance_or_left_out(document: dict[str, Any]) -> None:
    discovered(json.dumps(document).encode())


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_node_name_is_an_instance_or_left_out(name: str) -> None:
    discovered(b'{"address":"h","port":80}', name)


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), anything),
)
def test_own_node_round_trips(owner: str, more: dict[str, Any]) -> None:
    payload = {"service_url": "http://h:80", "metadata": {owner or "a": "ü"}}
    node = Node("svc", "one", owner or "r", 3, payload)
    assert curator.from_json("svc", "one", curator.to_json(node)) == node


BROKEN = (
    b"[" * 60_000,
    b'{"a":' * 60_000,
    b'{"address":"h","port":' + b"9" * 5_000 + b"}",
    b'{"address":"h","port":NaN}',
    b'{"address":"h","payload":{"a":1e999}}',
    b'{"address":"\\ud800"}',
    b'{"address":"h","payload":{"a":"\\udc00"}}',
    b'{"address":"h","payload":{"\\udc00":"a"}}',
    b"\xed\xa0\x80",
    b'{"address":"h\xed\xa0\x80"}',
    '{"address":"h"}'.encode("utf-16"),
    b'{"address":"[::1","port":80}',
    b'{"address":"h","payload":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"address":"h","payload":{"a":"' + b"x" * 1_000_000 + b'"}}',
    b'{"address":"h","registrationTimeUTC":1e400}',
    b'{"uriSpec":{"parts":[{"value":{},"variable":true}]}}',
)


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_data_that_once_caused_a_failure_is_left_out(data: bytes) -> None:
    # A garbage collection deep inside a nested document would call hypothesis, which then exceeds the recursion limit.
    gc.disable()
    try:
        found = discovered(data)
    finally:
        gc.enable()
    assert found is None or found.metadata == {}


# The URLs of foreign nodes. None: the node is left out.
SPEC = "{scheme}://{address}:{port}"
READ = {
    "no spec": ({"address": "h", "port": 80}, "http://h:80"),
    "no spec, no port": ({"address": "h"}, "http://h"),
    "no spec, TLS": ({"address": "h", "sslPort": 8443}, "https://h:8443"),
    "no spec, both ports": ({"address": "h", "port": 80, "sslPort": 8443}, "https://h:80"),
    "no spec, IPv6": ({"address": "::1", "port": 80}, "http://[::1]:80"),
    "usual spec": ({"address": "h", "port": 80, "uriSpec": SPEC}, "http://h:80"),
    "usual spec, port as text": ({"address": "h", "port": "80", "uriSpec": SPEC}, "http://h:80"),
    "usual spec, TLS port alone": ({"address": "h", "sslPort": 8443, "uriSpec": SPEC}, "https://h:8443"),
    "usual spec, both ports": ({"address": "h", "port": 80, "sslPort": 8443, "uriSpec": SPEC}, "https://h:80"),
    "usual spec, no port": ({"address": "h", "uriSpec": SPEC}, "http://h"),
    "ssl-port": ({"address": "h", "port": 80, "sslPort": 8443, "uriSpec": "https://{address}:{ssl-port}/a"}, "https://h:8443/a"),
    "IPv6": ({"address": "::1", "port": 80, "uriSpec": SPEC}, "http://[::1]:80"),
    "IPv6 in brackets": ({"address": "[::1]", "port": 80, "uriSpec": SPEC}, "http://[::1]:80"),
    "IPv6, brackets in the spec": ({"address": "::1", "port": 80, "uriSpec": "http://[{address}]:{port}"}, "http://[::1]:80"),
    "other scheme": ({"address": "h", "port": 9090, "uriSpec": "grpc://{address}:{port}"}, "grpc://h:9090"),
    "all variables": (
        {"address": "h", "port": 1, "name": "n", "id": "i", "registrationTimeUTC": 7, "serviceType": "DYNAMIC",
         "uriSpec": "http://{address}:{port}/{name}/{id}/{registration-time-utc}/{service-type}/{none}"},
        "http://h:1/n/i/7/dynamic/",
    ),
    "braces": ({"address": "h", "port": 1, "uriSpec": "http://{address}/{[}x{]}"}, "http://h/{x}"),
    "path and query": ({"address": "h", "port": 1, "uriSpec": SPEC + "/a/b?c=d#e"}, "http://h:1/a/b?c=d#e"),
    "user and password": ({"address": "h", "port": 1, "uriSpec": "http://u:p@{address}:{port}/"}, "http://h:1/"),
    "upper case": ({"address": "H.Example", "port": 1, "uriSpec": "HTTP://{address}:{port}"}, "HTTP://H.Example:1"),
    "no address": ({"port": 80, "uriSpec": SPEC}, None),
    "port 0": ({"address": "h", "port": 0, "uriSpec": "http://h:0"}, None),
    "port too large": ({"address": "h", "port": 65_536}, None),
    "port is a list": ({"address": "h", "port": [80]}, None),
    "port is true": ({"address": "h", "port": True}, None),
    "no URL": ({"address": "h", "uriSpec": "{address}"}, None),
    "a space": ({"address": "a b", "port": 1}, None),
    "a line": ({"address": "a\nb", "port": 1}, None),
    "half a bracket": ({"address": "[::1", "port": 1}, None),
    "too long": ({"address": "h" * 3_000, "port": 1}, None),
    "spec is a text": ({"address": "h", "port": 1, "rawSpec": "x"}, None),
}  # fmt: skip


def parts_of(spec: str) -> list[dict[str, object]]:
    """As `new UriSpec(String)` does."""
    found: list[dict[str, object]] = []
    for number, piece in enumerate(spec.replace("}", "{").split("{")):
        if piece:
            found.append({"value": piece, "variable": bool(number % 2)})
    return found


@pytest.mark.parametrize(("document", "url"), READ.values(), ids=READ)
def test_url_of_a_foreign_instance(document: dict[str, Any], url: str | None) -> None:
    source = dict(document)
    if "uriSpec" in source:
        source["uriSpec"] = {"parts": parts_of(source["uriSpec"])}
    if "rawSpec" in source:
        source["uriSpec"] = source.pop("rawSpec")
    found = discovered(json.dumps(source).encode())
    assert (found.service_url if found else None) == url


def test_payload_becomes_metadata_with_values_as_json_and_long_ones_left_out() -> None:
    payload = {
        "@class": "java.util.HashMap", "port": 8080, "on": True, "list": ["a", 1], "object": {"b": "ü"}, "half": 0.5,
        "nothing": None, "text": "x", "": "y", "long": "z" * 2_000, "k" * 200: "w",
    }  # fmt: skip
    found = discovered(json.dumps({"address": "h", "port": 1, "payload": payload}).encode())
    assert found is not None
    assert found.metadata == {
        "port": "8080", "on": "true", "list": '["a",1]', "object": '{"b":"ü"}', "half": "0.5", "text": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("member", "status"),
    [
        ({}, HEALTHY),
        ({"enabled": True}, HEALTHY),
        ({"enabled": False}, OUT_OF_SERVICE),
        ({"enabled": "false"}, OUT_OF_SERVICE),
        ({"payload": {"@class": "x", "metadata": {"instance_status": "UP"}}}, HEALTHY),
        ({"payload": {"@class": "x", "metadata": {"instance_status": "up"}}}, HEALTHY),
        ({"payload": {"@class": "x", "metadata": {"instance_status": ""}}}, HEALTHY),
        ({"payload": {"@class": "x", "metadata": {"instance_status": "OUT_OF_SERVICE"}}}, OUT_OF_SERVICE),
        ({"payload": {"@class": "x", "metadata": {"instance_status": "DOWN"}}}, OUT_OF_SERVICE),
    ],
)
def test_foreign_instance_that_takes_no_requests_is_out_of_service(member: dict[str, Any], status: str) -> None:
    found = discovered(json.dumps({"address": "h", "port": 1, **member}).encode())
    assert found is not None
    assert found.status == status


def test_time_of_registration_is_read_if_it_is_valid() -> None:
    def at(value: object) -> datetime:
        found = discovered(json.dumps({"address": "h", "port": 1, "registrationTimeUTC": value}).encode())
        assert found is not None
        return found.registered_at

    assert at(1_700_000_000_000) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    for other in (0, -1, 2**63, "x", None, [1], True):
        assert at(other) == NOW
