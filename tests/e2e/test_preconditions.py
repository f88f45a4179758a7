"""Preconditions fail closed (RFC 9110, 13.1): one that can't be understood is refused, for every kind and write."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import grpc
import httpx
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc

from tests.e2e.conftest import Running

CONFIG, FLAGS, REGISTRY = "/api/v1/config", "/api/v1/feature-flags", "/api/v1/registry"

BAD = ["", " ", ",", ", ,", '""', '"', 'W/""', 'w/"{etag}"', '"{etag}', '{etag}"', '"{etag}" x', '*, "{etag}"', '"*"',
       '"{etag}" "{etag}"', '"{etag}"; q=1', '"a b"']  # fmt: skip
# Valid only in `If-None-Match`, which compares weakly.
WEAK = ['W/"{etag}"', 'W/"other"', '"{etag}", W/"{etag}"']
MATCHING = ['"{etag}"', "{etag}", '"other", "{etag}"', '"{etag}","other"', ', "{etag}",', "*"]
STALE = ["'{etag}", '"other"', "other", '"1-ffff", "2-ffff"', '"{etag}0"']


@dataclass(frozen=True)
class Case:
    """A write to an existing resource. `{e}` stands for the environment."""

    method: str
    path: str
    body: dict[str, Any] | None
    get: str

    def send(self, rest: httpx.Client, environment: str, headers: Any = None, **members: Any) -> httpx.Response:
        body = None if self.body is None else {**filled(self.body, environment), **members}
        # Requests without a body have a query.
        query = f"&{urlencode(members)}" if self.body is None and members else ""
        return rest.request(self.method, self.path.replace("{e}", environment) + query, json=body, headers=headers)

    def etag(self, rest: httpx.Client, environment: str) -> str:
        body = rest.get(self.get.replace("{e}", environment)).json()
        return body["instances"][0]["etag"] if "instances" in body else body["etag"]  # type: ignore[no-any-return]


def filled(body: dict[str, Any], environment: str) -> dict[str, Any]:
    return {
        name: value.replace("{e}", environment) if isinstance(value, str) else value for name, value in body.items()
    }


A_CONFIG, A_FLAG = f"{CONFIG}/k?environment={{e}}", f"{FLAGS}/f?environment={{e}}"
AN_INSTANCE = f"{REGISTRY}/services/{{e}}"
INSTANCE = {"service_name": "{e}", "instance_id": "i"}
CASES = {
    "config put": Case("PUT", f"{CONFIG}/k", {"environment": "{e}", "value": 2}, A_CONFIG),
    "config patch": Case("PATCH", f"{CONFIG}/k", {"environment": "{e}", "description": "d"}, A_CONFIG),
    "config rollback": Case("POST", f"{CONFIG}/k:rollback", {"environment": "{e}", "version": 1}, A_CONFIG),
    "config delete": Case("DELETE", A_CONFIG, None, A_CONFIG),
    "flag put": Case("PUT", f"{FLAGS}/f", {"environment": "{e}", "owner": "o"}, A_FLAG),
    "flag patch": Case("PATCH", f"{FLAGS}/f", {"environment": "{e}", "owner": "o"}, A_FLAG),
    "flag rollback": Case("POST", f"{FLAGS}/f:rollback", {"environment": "{e}", "version": 1}, A_FLAG),
    "flag delete": Case("DELETE", A_FLAG, None, A_FLAG),
    "register": Case(
        "POST", f"{REGISTRY}/register", {**INSTANCE, "service_url": "http://h:1", "zone": "z"}, AN_INSTANCE
    ),
    "heartbeat": Case("POST", f"{REGISTRY}/heartbeat", INSTANCE, AN_INSTANCE),
    "deregister": Case("POST", f"{REGISTRY}/deregister", INSTANCE, AN_INSTANCE),
}


@pytest.fixture
def existing(rest: httpx.Client, environment: str) -> None:
    rest.post(CONFIG, json={"key": "k", "value": 1, "environment": environment}).raise_for_status()
    rest.post(FLAGS, json={"name": "f", "environment": environment}).raise_for_status()
    body = {"service_name": environment, "instance_id": "i", "service_url": "http://h:1"}
    rest.post(f"{REGISTRY}/register", json=body).raise_for_status()


def refused(answer: httpx.Response, field: str, status: int = 400, reason: str = "BAD_PRECONDITION") -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["details"][0]["reason"] == reason
    if status == 400 and field:
        assert field in [violation["field"] for violation in answer.json()["details"][1]["field_violations"]]


@pytest.mark.usefixtures("existing")
@pytest.mark.parametrize("name", CASES)
def test_malformed_precondition_is_refused_and_a_stale_one_changes_nothing(
    rest: httpx.Client, environment: str, name: str
) -> None:
    case = CASES[name]
    etag = case.etag(rest, environment)
    for text in (*BAD, *WEAK):
        header = text.replace("{etag}", etag)
        refused(case.send(rest, environment, {"if-match": header.strip()}), "If-Match")
        refused(case.send(rest, environment, etag=header), "etag")
        if text in BAD:
            refused(case.send(rest, environment, {"if-none-match": header.strip()}), "If-None-Match")
    for text in STALE:
        header = text.replace("{etag}", etag)
        refused(case.send(rest, environment, {"if-match": header}), "", 409, "STALE_ETAG")
        refused(case.send(rest, environment, etag=header), "", 409, "STALE_ETAG")
    for text in ('"{etag}"', 'W/"{etag}"', '"x", "{etag}"', "{etag}"):
        header = text.replace("{etag}", etag)
        refused(case.send(rest, environment, {"if-none-match": header}), "", 409, "ETAG_EXCLUDED")
    assert case.send(rest, environment, {"if-none-match": "*"}).status_code == 409
    refused(case.send(rest, environment, {"if-match": '"other"'}, etag=etag), "etag")
    assert case.etag(rest, environment) == etag
    if case.body is not None:
        assert "etag: must not be null" in case.send(rest, environment, etag=None).json()["message"]


@pytest.mark.usefixtures("existing")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("text", ["Wed, 21 Oct 2015 07:28:00 GMT", "x", ""])
def test_unsupported_precondition_is_refused(rest: httpx.Client, environment: str, name: str, text: str) -> None:
    """`If-Unmodified-Since` (RFC 9110, 13.1.4): if it were ignored, the write would overwrite a newer version."""
    case = CASES[name]
    etag = case.etag(rest, environment)
    refused(case.send(rest, environment, {"if-unmodified-since": text}), "", 400, "BAD_PRECONDITION")
    assert case.etag(rest, environment) == etag


@pytest.mark.usefixtures("existing")
@pytest.mark.parametrize("text", MATCHING)
@pytest.mark.parametrize("name", CASES)
def test_write_succeeds_if_its_precondition_holds(rest: httpx.Client, environment: str, name: str, text: str) -> None:
    case = CASES[name]
    header = text.replace("{etag}", case.etag(rest, environment))
    answer = case.send(rest, environment, {"if-match": header, "if-none-match": 'W/"other"'})
    assert answer.is_success, answer.text
    if name not in ("heartbeat",) and "delete" not in name and name != "deregister":
        etag = case.etag(rest, environment)
        assert case.send(rest, environment, [("if-match", '"other"'), ("if-match", f'"{etag}"')], etag=etag).is_success


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("config rollback", "flag rollback")])
def test_precondition_on_a_missing_resource_is_not_found(rest: httpx.Client, environment: str, name: str) -> None:
    for header in ("*", '"1-1"'):
        assert CASES[name].send(rest, environment, {"if-match": header}).status_code == 404


def test_put_with_if_none_match_creates_only_once(rest: httpx.Client, environment: str) -> None:
    for name, more in (
        ("config put", {}),
        ("config patch", {"value": 1}),
        ("flag put", {}),
        ("flag patch", {}),
        ("register", {}),
    ):
        own = environment + name.replace(" ", "-")
        assert CASES[name].send(rest, own, {"if-none-match": "*"}, **more).status_code == 201
        assert CASES[name].send(rest, own, {"if-none-match": "*"}, **more).status_code == 409


@pytest.mark.usefixtures("existing")
def test_create_refuses_preconditions(rest: httpx.Client, environment: str) -> None:
    for path, name in ((CONFIG, "key"), (FLAGS, "name")):
        body = {name: "new", "environment": environment, **({"value": 1} if name == "key" else {})}
        for header in ("*", '"1-1"', ""):
            refused(rest.post(path, json=body, headers={"if-match": header}), "If-Match")
        refused(rest.post(path, json=body, headers={"if-none-match": ""}), "If-None-Match")
        assert rest.post(path, json=body, headers={"if-none-match": "*"}).status_code == 201


@pytest.mark.usefixtures("existing")
def test_batch_accepts_preconditions_only_in_its_items(rest: httpx.Client, environment: str) -> None:
    etag = CASES["config put"].etag(rest, environment)

    def write(headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
        operation = {"key": "k", "value": 2, **members}
        body = {"environment": environment, "operations": [{"key": "other", "value": 1}, operation]}
        return rest.post(f"{CONFIG}:batchWrite", json=body, headers=headers)

    refused(write({"if-match": f'"{etag}"'}), "If-Match")
    refused(write({"if-none-match": "*"}), "If-None-Match")
    for text in BAD:
        refused(write(etag=text.replace("{etag}", etag)), "operations[1].etag")
    assert "operations[1].etag: must not be null" in write(etag=None).json()["message"]
    refused(write(etag="other"), "", 409, "STALE_ETAG")
    assert rest.get(f"{CONFIG}/other", params={"environment": environment}).status_code == 404
    assert write(etag=f'"x", "{etag}"').is_success
    assert write(etag="*").is_success


@pytest.fixture(scope="module")
def configs(service: Running) -> Iterator[config_pb2_grpc.ConfigServiceStub]:
    with grpc.insecure_channel(service.target) as channel:
        yield config_pb2_grpc.ConfigServiceStub(channel)


@pytest.mark.usefixtures("existing")
def test_grpc_metadata_is_the_same_as_rest_headers(
    configs: config_pb2_grpc.ConfigServiceStub, rest: httpx.Client, environment: str
) -> None:
    etag = CASES["config put"].etag(rest, environment)
    delete = config_pb2.DeleteConfigRequest(key="k", environment=environment)
    for values, code in (
        ([""], grpc.StatusCode.INVALID_ARGUMENT),
        ([f'W/"{etag}"'], grpc.StatusCode.INVALID_ARGUMENT),
        ([f'"{etag}"', "*"], grpc.StatusCode.INVALID_ARGUMENT),
        (['"other"', '"another"'], grpc.StatusCode.ABORTED),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            configs.DeleteConfig(delete, metadata=tuple(("if-match", value) for value in values))
        assert raised.value.code() is code
    delete.etag = ""
    with pytest.raises(grpc.RpcError, match="etag: must not be empty"):
        configs.DeleteConfig(delete)
    delete.etag = etag
    configs.DeleteConfig(delete, metadata=(("if-match", '"other"'), ("if-match", f'"{etag}"')))
