"""Which callers are accepted: origins of web pages, names in the Host header, and content types of bodies."""

import gzip
import json
from collections.abc import Iterator

import grpc
import httpx
import pytest
from configsvc_client.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.settings import load
from tests.e2e import raw
from tests.e2e.conftest import Running, start, stop
from tests.engines.ports import Port

APP, EVIL = "https://app.example", "https://evil.example"
CONFIG = "/api/v1/config"
LIVENESS = "configsvc.v1.HealthService/GetLiveness"
JSON = (b"content-type", b"application/json")


@pytest.fixture(scope="module")
def open_to_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with one allowed origin and one additional host name."""
    with Port() as port:
        running = start(
            tmp_path_factory.mktemp("open"),
            port.number,
            CORS_ORIGINS=f"{APP},http://localhost:3000",
            ALLOWED_HOSTS="cfg.lan",
        )
        yield running
        assert stop(running) == 0


def post(service: Running, body: bytes, *headers: tuple[bytes, bytes], host: bytes = b"localhost") -> raw.Answer:
    length = (b"content-length", str(len(body)).encode())
    return raw.request(service.port, "POST", CONFIG, [length, *headers], body, host=host)


def body_for(environment: str, key: str = "k") -> bytes:
    return json.dumps({"key": key, "value": 1, "environment": environment}).encode()


def reason(answer: raw.Answer) -> str:
    body = json.loads(answer.body)
    return str(body["details"][0]["reason"])


def stored(service: Running, environment: str) -> list[str]:
    listed = httpx.get(f"{service.url}{CONFIG}", params={"environment": environment}).json()
    return [config["key"] for config in listed["configs"]]


@pytest.mark.parametrize(
    "headers",
    [
        ((b"origin", EVIL.encode()),),
        ((b"origin", b"null"),),
        ((b"origin", b"http://localhost:1"),),
        ((b"origin", b"\xff"),),
        ((b"sec-fetch-site", b"cross-site"),),
        ((b"sec-fetch-site", b"same-site"),),
    ],
)
def test_page_of_another_site_can_not_write(
    service: Running, environment: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    answer = post(service, body_for(environment), JSON, *headers)
    assert (answer.status, reason(answer)) == (403, "ORIGIN_NOT_ALLOWED")
    plain = post(service, body_for(environment), (b"content-type", b"text/plain"), *headers)
    assert plain.status == 403
    web = raw.grpc_web(service.port, LIVENESS, raw.framed(b""), headers)
    assert web.grpc_status == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert stored(service, environment) == []


def test_own_origin_and_callers_without_an_origin_can_write(service: Running, environment: str) -> None:
    own = f"http://localhost:{service.port}".encode()
    host = f"localhost:{service.port}".encode()
    assert post(service, body_for(environment, "a"), JSON, (b"origin", own), host=host).status == 201
    assert post(service, body_for(environment, "b"), JSON, (b"sec-fetch-site", b"same-origin")).status == 201
    assert post(service, body_for(environment, "c"), JSON).status == 201


@pytest.mark.parametrize("origin", [APP, EVIL])
def test_no_origin_is_allowed_to_read_by_default(service: Running, origin: str) -> None:
    preflight_headers = {"origin": origin, "access-control-request-method": "PUT"}
    for answer in (
        httpx.options(f"{service.url}{CONFIG}/k", headers=preflight_headers),
        httpx.get(f"{service.url}/live", headers={"origin": origin}),
    ):
        assert "access-control-allow-origin" not in answer.headers


def test_allowed_origin_can_call_rest_and_grpc_web(open_to_app: Running, environment: str) -> None:
    origin = (b"origin", APP.encode())
    made = post(open_to_app, body_for(environment), JSON, origin)
    assert (made.status, made.headers["access-control-allow-origin"]) == (201, APP)
    assert "etag" in made.headers["access-control-expose-headers"]
    web = raw.grpc_web(open_to_app.port, LIVENESS, raw.framed(b""), [origin])
    assert (web.grpc_status, web.headers["access-control-allow-origin"]) == (0, APP)
    preflight_headers = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-grpc-web",
    }
    for path in (f"/{LIVENESS}", CONFIG):
        preflight = httpx.options(f"{open_to_app.url}{path}", headers={"origin": APP, **preflight_headers})
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, APP)
        assert "x-grpc-web" in preflight.headers["access-control-allow-headers"]
        foreign = httpx.options(f"{open_to_app.url}{path}", headers={"origin": EVIL, **preflight_headers})
        assert "access-control-allow-origin" not in foreign.headers
    assert post(open_to_app, body_for(environment, "x"), JSON, (b"origin", EVIL.encode())).status == 403


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"evil.example:8082", b"localhost.evil.example", b"127.0.0.1.evil.example", b"cfg.lan", b"[::2]"],
)
def test_unknown_host_name_is_refused(service: Running, environment: str, host: bytes) -> None:
    """DNS rebinding: the Host header has the name of the page's site."""
    for answer in (
        post(service, body_for(environment), JSON, host=host),
        raw.request(service.port, "GET", "/live", host=host),
    ):
        assert (answer.status, reason(answer)) == (403, "HOST_NOT_ALLOWED")
    assert stored(service, environment) == []


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:1", b"127.0.0.1", b"127.0.0.1:8082", b"[::1]", b"[::1]:9", b"localhost."]
)
def test_loopback_host_names_are_accepted(service: Running, host: bytes) -> None:
    assert raw.request(service.port, "GET", "/live", host=host).status == 200


def test_allowed_host_is_accepted(open_to_app: Running) -> None:
    assert raw.request(open_to_app.port, "GET", "/live", host=b"cfg.lan:8082").status == 200
    assert raw.request(open_to_app.port, "GET", "/live", host=b"evil.example").status == 403


@pytest.mark.parametrize("authority", ["localhost", "127.0.0.1:1", "evil.example"])
def test_host_names_are_checked_for_grpc_too(service: Running, authority: str) -> None:
    with grpc.insecure_channel(service.target, [("grpc.default_authority", authority)]) as channel:
        call = health_pb2_grpc.HealthServiceStub(channel).GetLiveness.future(
            health_pb2.GetLivenessRequest(), timeout=20
        )
        expected = grpc.StatusCode.PERMISSION_DENIED if "evil" in authority else grpc.StatusCode.OK
        assert call.code() is expected


def test_every_host_name_is_accepted_if_the_service_listens_on_all_addresses() -> None:
    everywhere = load(host="0.0.0.0")
    assert everywhere.host_names is None
    assert load(host="127.0.0.1").host_names == frozenset({"localhost", "127.0.0.1", "[::1]"})
    named = load(host="0.0.0.0", allowed_hosts="cfg.lan", service_url="http://Cfg-1.lan:80").host_names
    assert named == frozenset({"localhost", "127.0.0.1", "[::1]", "0.0.0.0", "cfg.lan", "cfg-1.lan"})
    assert load(host="::1", allowed_hosts="*").host_names is None


WRONG_TYPES = [
    b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"application/grpcx",
    b"application/grpc-web+x", b"application/jsonx", b"application/xml", b"text/json", b"\xff", b"", b"*/*",
]  # fmt: skip


@pytest.mark.parametrize("media", WRONG_TYPES)
def test_body_of_another_content_type_is_415_and_stores_nothing(
    service: Running, environment: str, media: bytes
) -> None:
    answer = post(service, body_for(environment), (b"content-type", media))
    assert (answer.status, reason(answer)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert answer.headers["content-type"] == "application/json"
    assert stored(service, environment) == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_every_method_with_a_body_requires_json(service: Running, environment: str, method: str) -> None:
    path = f"{CONFIG}/k?environment={environment}"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    assert raw.request(service.port, method, path, headers, b"{}").status == 415


def test_body_needs_a_content_type_and_an_empty_request_does_not(service: Running, environment: str) -> None:
    assert post(service, body_for(environment)).status == 415
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body_for(environment)), body_for(environment))
    answer = raw.request(service.port, "POST", CONFIG, [(b"transfer-encoding", b"chunked")], chunked)
    assert answer.status == 415
    # Without a body the answer names the missing fields.
    assert raw.request(service.port, "POST", CONFIG).status == 400
    assert stored(service, environment) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_only_json_is_parsed(service: Running, environment: str, media: str) -> None:
    if media.partition(";")[0].lower() != "application/json":
        assert post(service, body_for(environment), (b"content-type", media.encode())).status == 415
        assert stored(service, environment) == []


@pytest.mark.parametrize("media", [b"application/json", b"Application/JSON", b"application/json; charset=utf-8"])
def test_all_spellings_of_the_json_content_type_are_accepted(service: Running, environment: str, media: bytes) -> None:
    assert post(service, body_for(environment), (b"content-type", media)).status == 201


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"x"])
def test_compressed_body_is_415(service: Running, environment: str, encoding: bytes) -> None:
    answer = post(service, gzip.compress(body_for(environment)), JSON, (b"content-encoding", encoding))
    assert (answer.status, reason(answer)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert post(service, body_for(environment), JSON, (b"content-encoding", b"identity")).status == 201


def test_json_for_a_grpc_method_is_415(service: Running) -> None:
    answer = httpx.post(f"{service.url}/{LIVENESS}", json={})
    assert answer.status_code == 415
    unknown = raw.request(
        service.port, "POST", f"/{LIVENESS}", [(b"content-type", b"application/grpc+json"), (b"content-length", b"0")]
    )
    assert unknown.grpc_status == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_service_listens_on_the_loopback_by_default() -> None:
    assert load().host == "127.0.0.1"
