"""A body whose message would be too large is refused before the message is made; others are accepted."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from configsvc_client.v1 import config_pb2, flag_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.gateway.echo import echo

LIMIT = 20_000
JSON = {"content-type": "application/json"}

scalars = st.none() | st.booleans() | st.integers(-9, 10**9) | st.floats(-1e300, 1e300) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with echo(tmp_path_factory.mktemp("envoy"), LIMIT) as client:
        yield client


def assert_agrees(
    gateway: httpx.Client, path: str, message: Message, body: dict[str, Any], *, ascii_only: bool
) -> None:
    """Asserts that the gateway counts at most as many bytes as protobuf, and not much fewer if nothing is escaped."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=ascii_only).encode("utf-8")
    assume(len(text) <= LIMIT)
    answer = gateway.post(path, content=text, headers=JSON)
    size = json_format.ParseDict(body, message).ByteSize()
    if answer.status_code == 413:
        assert size > LIMIT
        assert answer.json()["details"][0]["reason"] == "BODY_TOO_LARGE"
    else:
        assert answer.status_code == 200, answer.text
        assert ascii_only or size <= 2 * LIMIT


@settings(max_examples=200, deadline=None)
@given(item=values, times=st.integers(1, 5_000), ascii_only=st.booleans())
def test_size_of_values(gateway: httpx.Client, item: Any, times: int, ascii_only: bool) -> None:
    body = {"key": "k", "environment": "e", "value": [item] * times}
    assert_agrees(gateway, "/api/v1/config", config_pb2.CreateConfigRequest(), body, ascii_only=ascii_only)


@settings(max_examples=100, deadline=None)
@given(item=values, times=st.integers(1, 2_000), ascii_only=st.booleans())
def test_size_of_attributes(gateway: httpx.Client, item: Any, times: int, ascii_only: bool) -> None:
    requests = [{"flag_name": "f", "attributes": {"a": item, "b": [item] * 9}}] * (times // 10)
    body = {"requests": requests, "attributes": {str(number): item for number in range(times)}}
    path = "/api/v1/feature-flags/evaluate/batch"
    assert_agrees(gateway, path, flag_pb2.BatchEvaluateFlagsRequest(), body, ascii_only=ascii_only)


@pytest.mark.parametrize(("item", "bytes_each"), [("1", 11), ('"abc"', 7), ("null", 4), ("{}", 4), ("[]", 4)])
def test_limit_is_exact_to_the_item(gateway: httpx.Client, item: str, bytes_each: int) -> None:
    """The items are small, so that their lengths take one byte."""
    most = LIMIT // bytes_each
    assert most * (len(item) + 1) < 2 * LIMIT
    for count, status in ((most - 2, 200), (most + 2, 413)):
        body = f'{{"value":[{",".join([item] * count)}]}}'
        if len(body) <= LIMIT:
            assert gateway.post("/api/v1/config", content=body, headers=JSON).status_code == status
