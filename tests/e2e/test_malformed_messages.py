"""gRPC requests whose body is not exactly one message, or is too large, get a code and a reason at once."""

import base64
import gzip
import json
import struct
from typing import Any

import grpc
import httpx
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc
from google.protobuf.struct_pb2 import ListValue, Value
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e import raw
from tests.e2e.conftest import Running
from tests.rpc.refusals import refused

METHODS = [
    "configsvc.v1.HealthService/GetLiveness", "configsvc.v1.ConfigService/CreateConfig",
    "configsvc.v1.ConfigService/WatchConfigs", "configsvc.v1.FlagService/WatchFlags", "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
]  # fmt: skip
INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 8, 12
REQUEST_BYTES = 8 << 20
BODIES = {
    "empty": b"",
    "part of a head": b"\0\0\0",
    "part of a message": b"\0\0\0\0\x09abc",
    "more than a message": b"\0\0\0\0\1abc",
    "two messages": b"\0\0\0\0\0" * 2,
    "a length of 4 GiB": b"\0\xff\xff\xff\xffabc",
    "an unknown flag": b"\7\0\0\0\0",
    "compressed without an encoding": b"\1\0\0\0\3abc",
}


def reasons(answer: raw.Answer) -> list[str]:
    status = status_pb2.Status.FromString(base64.b64decode(answer.headers["grpc-status-details-bin"]))
    reasons_found = []
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reasons_found.append(info.reason)
    return reasons_found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_body_that_is_not_one_message_is_refused_at_once(service: Running, method: str, body: bytes) -> None:
    """It once took the gateway's time-out of 20 s, and for a watch it never ended."""
    answer = raw.grpc_web(service.port, method, body)
    assert (answer.grpc_status, reasons(answer)) == (INVALID_ARGUMENT, ["MALFORMED_REQUEST"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(METHODS[:3]), st.binary(max_size=12))
def test_arbitrary_bytes_are_answered(service: Running, method: str, body: bytes) -> None:
    answer = raw.grpc_web(service.port, method, body)
    assert answer.grpc_status in (0, INVALID_ARGUMENT, UNIMPLEMENTED)


def test_client_stream_can_be_empty(service: Running) -> None:
    answer = raw.grpc_web(service.port, "configsvc.v1.RegistryService/KeepAlive", b"")
    assert answer.grpc_status == 0


def test_compressed_message_is_read(service: Running) -> None:
    packed = gzip.compress(b"")
    body = b"\1" + struct.pack(">I", len(packed)) + packed
    answer = raw.grpc_web(service.port, METHODS[0], body, [(b"grpc-encoding", b"gzip")])
    assert answer.grpc_status == 0
    unknown = raw.grpc_web(service.port, METHODS[0], body, [(b"grpc-encoding", b"snappy")])
    assert (unknown.grpc_status, reasons(unknown)) == (UNIMPLEMENTED, ["UNSUPPORTED_ENCODING"])


@pytest.mark.parametrize(
    "compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate]
)
def test_message_above_the_limit_is_resource_exhausted_with_a_reason(
    service: Running, compression: grpc.Compression
) -> None:
    with grpc.insecure_channel(service.target, [("grpc.max_send_message_length", -1)]) as channel:
        configs = config_pb2_grpc.ConfigServiceStub(channel)
        request = config_pb2.GetConfigRequest(key="x" * (REQUEST_BYTES + 1), environment="e")
        refusal = refused(lambda: configs.GetConfig(request, timeout=60, compression=compression))
        assert (refusal.code, refusal.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE")
        assert "MAX_REQUEST_BYTES" in refusal.message
        watch = config_pb2.WatchConfigsRequest(keys=["x" * (REQUEST_BYTES + 1)], environment="e")
        refusal = refused(lambda: configs.WatchConfigs(watch, timeout=60, compression=compression))
        assert (refusal.code, refusal.info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BODY_TOO_LARGE")


def test_grpc_web_and_rest_get_the_same_reason(service: Running, environment: str) -> None:
    web = raw.grpc_web(service.port, METHODS[0], raw.framed(b"x" * REQUEST_BYTES))
    assert (web.grpc_status, reasons(web)) == (RESOURCE_EXHAUSTED, ["BODY_TOO_LARGE"])
    # A number takes two bytes in JSON and eleven in a message.
    numbers: list[Any] = [1] * (1 << 20)
    message = Value(list_value=ListValue(values=[Value(number_value=1)] * len(numbers)))
    body = {"key": "k", "value": numbers, "environment": environment}
    assert len(json.dumps(body, separators=(",", ":"))) < REQUEST_BYTES < message.ByteSize()
    rest = httpx.post(f"{service.url}/api/v1/config", json=body, timeout=60)
    assert (rest.status_code, rest.json()["details"][0]["reason"]) == (413, "BODY_TOO_LARGE")
    assert "x-http-status" not in rest.headers
