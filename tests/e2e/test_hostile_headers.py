"""Headers that have a meaning for gRPC, Envoy or this service, with arbitrary values.

One caller's headers must not harm other callers: each hostile request is followed by calls of neighbours, with a
deadline, through every thread of the gateway.
"""

import json
from collections.abc import Iterator

import grpc
import pytest
from configsvc_client.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e import raw
from tests.e2e.conftest import Running

# Headers that gRPC's core parses by name (metadata_batch.h), that control Envoy, and that this service reads.
PARSED = [
    "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-internal-encoding-request", "grpc-status",
    "grpc-message", "grpc-previous-rpc-attempts", "grpc-retry-pushback-ms", "grpc-status-details-bin", "grpc-tags-bin",
    "grpc-trace-bin", "grpc-server-stats-bin", "endpoint-load-metrics-bin", "lb-token", "lb-cost-bin", "any-bin", "te",
    "user-agent", "content-encoding", "accept", "accept-encoding", "cookie", "origin", "expect", "x-grpc-web",
]  # fmt: skip
ENVOY = [
    "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-max-retries", "x-envoy-retry-on",
    "x-envoy-retry-grpc-on", "x-envoy-original-path", "x-envoy-expected-rq-timeout-ms", "x-envoy-decorator-operation",
    "x-envoy-internal", "x-envoy-external-address", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
    "x-envoy-force-trace", "x-client-trace-id", "traceparent", "tracestate",
]  # fmt: skip
OURS = [
    "x-request-id", "x-actor", "authorization", "if-match", "if-none-match", "x-http-status", "x-configsvc-rest",
    "x-configsvc-native", "x-configsvc-refused", "x-revision",
]  # fmt: skip
VALUES = [
    b"x", b"", b"1", b"999999999S", b"gzip", b"!!!", b"%zz", b"\xff", b"a, b", b"x" * 9000,
]  # fmt: skip
LIVE, MISSING = "/live", "/api/v1/config/nope?environment=dev"
LIVENESS = "configsvc.v1.HealthService/GetLiveness"
# Each has its own connection. The gateway has at most four threads, and two on a CI machine.
NEIGHBOURS = 8


class Neighbours:
    """Callers with deadlines. A poisoned connection breaks deadlines first."""

    def __init__(self, target: str) -> None:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(target, alone) for _ in range(NEIGHBOURS)]

    def call(self) -> None:
        """Calls as each neighbour; fails if one is not answered."""
        request = health_pb2.GetLivenessRequest()
        stubs = map(health_pb2_grpc.HealthServiceStub, self._channels)
        for answer in [stub.GetLiveness.future(request, timeout=20) for stub in stubs]:
            assert answer.result().status == "up"

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@pytest.fixture(scope="module")
def neighbours(service: Running) -> Iterator[Neighbours]:
    callers = Neighbours(service.target)
    callers.call()
    yield callers
    callers.close()


def check_rest(service: Running, name: bytes, value: bytes) -> None:
    """Asserts that the answer is the same as without the header, or a 400 that names the header."""
    for path, usual in ((LIVE, 200), (MISSING, 404)):
        answer = raw.request(service.port, "GET", path, [(name, value)])
        body = json.loads(answer.body)
        if answer.status != usual:
            assert answer.status == 400, (name, value, answer)
            assert {detail["reason"] for detail in body["details"]} <= {"MALFORMED_HEADER", "MALFORMED_REQUEST"}


def check_grpc(service: Running, name: bytes, value: bytes) -> None:
    """The same for gRPC. An expired deadline, an unknown encoding and a foreign origin are also accepted answers."""
    answer = raw.grpc_web(service.port, LIVENESS, raw.framed(b""), [(name, value)])
    if answer.headers.get("content-type", "").startswith("application/json"):
        assert answer.status == 400, (name, value, answer)
    else:
        allowed = (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
        also = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.PERMISSION_DENIED)
        expected = {code.value[0] for code in (*allowed, *also)}
        assert answer.grpc_status in expected, (name, value, answer)


@pytest.mark.parametrize("name", [*PARSED, *ENVOY, *OURS])
def test_hostile_header_does_not_harm_neighbours(service: Running, neighbours: Neighbours, name: str) -> None:
    for value in VALUES:
        check_rest(service, name.encode(), value)
        check_grpc(service, name.encode(), value)
    neighbours.call()


TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
names = st.one_of(
    st.sampled_from([*PARSED, *ENVOY, *OURS]),
    st.builds(
        lambda start, middle, end: start + middle + end,
        st.sampled_from(["", "grpc-", "x-envoy-", "x-configsvc-", "lb-"]),
        st.text(TOKEN, min_size=1, max_size=12),
        st.sampled_from(["", "-bin"]),
    ).filter(lambda name: name not in ("host", "connection", "upgrade", "content-length", "transfer-encoding")),
)
values = st.binary(max_size=40).map(lambda text: bytes(byte for byte in text if byte >= 32 and byte != 127))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, values)
def test_random_headers_do_not_harm_neighbours(
    service: Running, neighbours: Neighbours, name: str, value: bytes
) -> None:
    check_rest(service, name.encode(), value)
    check_grpc(service, name.encode(), value)
    neighbours.call()


@pytest.mark.parametrize("value", [b"x", b"S", b"1", b"123456789S", b"1s", b"-1S", b"1 S", b"1S, 1S", b"\xff"])
def test_malformed_grpc_timeout_is_invalid_argument(service: Running, value: bytes) -> None:
    answer = raw.grpc_web(service.port, LIVENESS, raw.framed(b""), [(b"grpc-timeout", value)])
    assert answer.grpc_status == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "grpc-timeout" in answer.headers["grpc-message"]


def test_well_formed_grpc_timeout_is_accepted(service: Running) -> None:
    for value in (b"99999999H", b"99999999S", b"20S", b"60000m"):
        answer = raw.grpc_web(service.port, LIVENESS, raw.framed(b""), [(b"grpc-timeout", value)])
        assert answer.grpc_status == 0


def test_request_id_that_is_not_text_is_replaced(service: Running) -> None:
    for given_id in (b"\xff", b"a b", b"\xc3\xbc"):
        answer = raw.request(service.port, "GET", MISSING, [(b"x-request-id", given_id)])
        assert answer.status == 404
        assert answer.headers["x-request-id"].isascii()
    kept = raw.request(service.port, "GET", MISSING, [(b"x-request-id", b"mine-1")])
    assert kept.headers["x-request-id"] == "mine-1"


def test_actor_that_is_not_text_is_refused_by_name(service: Running) -> None:
    answer = raw.request(service.port, "GET", LIVE, [(b"x-actor", b"a\xffb")])
    assert answer.status == 400
    assert json.loads(answer.body)["message"].startswith("header x-actor: ")
    assert raw.request(service.port, "GET", LIVE, [(b"x-actor", "Zoë".encode())]).status == 200


GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
# HPACK's Huffman code of `grpc-status` in the literal form that Envoy writes, followed by a status of one digit.
GRPC_STATUS = b"\x40\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x01"


@pytest.mark.parametrize("name", [b"grpc-timeout", b"grpc-encoding", b"grpc-status", b"any-bin"])
def test_request_trailers_are_ignored(service: Running, neighbours: Neighbours, name: bytes) -> None:
    """gRPC parses trailers like headers: the caller once got INTERNAL."""
    last = raw.http2(service.port, f"/{LIVENESS}".encode(), GRPC, raw.framed(b""), [(name, b"!x")])
    assert GRPC_STATUS + b"0" in last
    neighbours.call()


@pytest.mark.parametrize("path", [b"/configsvc.v1.HealthService/\xff", b"/\xff/\xfe", b"/caf\xc3\xa9/x"])
def test_path_that_is_not_text_does_not_harm_neighbours(service: Running, neighbours: Neighbours, path: bytes) -> None:
    """grpc.aio decodes the path in the loop that accepts calls: the worker once accepted no calls after that."""
    last = raw.http2(service.port, path, GRPC, raw.framed(b""))
    assert GRPC_STATUS + b"3" in last
    neighbours.call()
