"""The gateway reads REST bodies as Python and protobuf do, in a real Envoy."""

from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import pytest
from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2, registry_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.gateway import routes
from tests.gateway.echo import echo
from tests.gateway.random_bodies import Bodies
from tests.gateway.strict_json import NotStrict, members

JSON = {"content-type": "application/json"}
BODIES: list[tuple[str, str, type[Message]]] = [
    ("POST", "/api/v1/config", config_pb2.CreateConfigRequest),
    ("POST", "/api/v1/config:batchWrite", config_pb2.BatchWriteConfigsRequest),
    ("POST", "/api/v1/feature-flags", flag_pb2.CreateFlagRequest),
    ("POST", "/api/v1/feature-flags/evaluate/batch", flag_pb2.BatchEvaluateFlagsRequest),
    ("POST", "/api/v1/registry/register", registry_pb2.RegisterInstanceRequest),
    ("POST", "/api/v1/changes:apply", change_pb2.ApplyChangesRequest),
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with echo(tmp_path_factory.mktemp("envoy")) as client:
        yield client


def members_or_error(gateway: httpx.Client, method: str, path: str, body: bytes) -> set[str] | dict[str, Any]:
    """The members that the gateway has read, or its error."""
    answer = gateway.request(method, path, content=body, headers=JSON)
    if answer.status_code == 200:
        return set(answer.text.split(",")) - {"", "(none)"}
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()
    info, bad = error["details"]
    (violation,) = bad["field_violations"]
    assert error["code"] == 3
    assert error["message"] == f"{violation['field']}: {violation['description']}"
    assert info["reason"] in ("MALFORMED_REQUEST", "UNKNOWN_MEMBER", "DUPLICATE_MEMBER", "INVALID_INPUT")
    return error


@pytest.mark.parametrize(("method", "path", "message"), BODIES)
def test_random_bodies_are_read_as_python_and_protobuf_read_them(
    gateway: httpx.Client, method: str, path: str, message: type[Message]
) -> None:
    @settings(max_examples=80, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def check(seed: int) -> None:
        assert_agrees(gateway, method, path, message, Bodies(Random(seed)).body(message.DESCRIPTOR))

    check()


@pytest.mark.parametrize(
    "body",
    [b"{}", b" {} ", b"[]", b"1", b'"a"', b"{} {}", b"\xef\xbb\xbf{}",
     b'{"\\u006bey":"a","key":"b"}', b'{"serviceName":"a","service_name":"b"}',
     b'{"value":{"a":1,"\\u0061":2}}', b'{"value":[[{"a":1,"b":[{"c":1,"c":2}]}]]}', b'{"value":{"a":{"b":1},"b":{"b":1}}}',
     b'{"value":{"":1,"":2}}', b'{"value":{"a":1,"b":2,"a":3}}', b'{"value":[{"a":1},{"a":1}],"key":""}',
     b'{"value":' + b"[" * 99 + b"]" * 99 + b"}", b'{"value":' + b"[" * 100 + b"]" * 100 + b"}",
     b'{"value":' + b"[" * 100_000, b'{"value":' + b'{"a":' * 99 + b"1" + b"}" * 99 + b"}"],
)  # fmt: skip
def test_chosen_bodies_are_read_as_python_and_protobuf_read_them(gateway: httpx.Client, body: bytes) -> None:
    assert_agrees(gateway, *BODIES[0], body)


def assert_agrees(gateway: httpx.Client, method: str, path: str, message: type[Message], body: bytes) -> None:
    """Asserts that the gateway accepts the same bodies as the oracle, and reads the same members."""
    result = members_or_error(gateway, method, path, body)
    if not body:
        return
    try:
        expected: set[str] | str = members(body, message())
    except (NotStrict, json_format.ParseError, ValueError) as error:
        expected = str(error)
    if isinstance(result, dict):
        assert isinstance(expected, str), (body, result)
    else:
        assert result == expected, body


def bindings() -> list[tuple[str, str, Descriptor]]:
    """Every method of every route, with a path that matches it."""
    return [
        (verb, route.template.replace("{key=**}", "a/b.c").replace("{name}", "n").replace("{service_name}", "s"),
         method.input_type)
        for route in routes.routes()
        for verb, method in route.methods.items()
    ]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "message"), bindings())
def test_every_route_refuses_unknown_members(
    gateway: httpx.Client, method: str, path: str, message: Descriptor
) -> None:
    result = members_or_error(gateway, method, path, b'{"no_such_member": 1}')
    assert isinstance(result, dict)
    assert result["message"].startswith("no_such_member: is unknown here")
    known = result["message"].partition("known are ")[2]
    assert known == ", ".join(f.name for f in message.fields)


def test_operation_with_two_writes_is_refused_by_name(gateway: httpx.Client) -> None:
    """Two members of a oneof. protobuf's reader would name types, not a field."""
    names = [f.name for f in change_pb2.ChangeOperation.DESCRIPTOR.fields]
    for first, second in zip(names, names[1:] + names[:1], strict=True):
        body = f'{{"operations":[{{}},{{"{first}":{{}},"{second}":{{}}}}]}}'.encode()
        result = members_or_error(gateway, "POST", "/api/v1/changes:apply", body)
        assert isinstance(result, dict)
        assert result["message"].startswith(f"operations[1].{second}: must not be given together with {first}")
        one = f'{{"operations":[{{"{first}":{{}},"{second}":null}}]}}'.encode()
        assert members_or_error(gateway, "POST", "/api/v1/changes:apply", one) == {"operations"}


def test_list_of_too_many_objects_is_refused(gateway: httpx.Client) -> None:
    body = b'{"operations":[' + b",".join([b"{}"] * 100_001) + b"]}"
    result = members_or_error(gateway, "POST", "/api/v1/changes:apply", body)
    assert isinstance(result, dict)
    assert result["message"] == "operations: must have at most 100000 items"
