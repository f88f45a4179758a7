"""Bad input through a real Envoy: each gets its status and a JSON body that names the mistake, and changes nothing."""

import json
from collections.abc import Iterator

import httpx
import pytest

CONFIG = "/api/v1/config"
FLAGS = "/api/v1/feature-flags"
REGISTER = "/api/v1/registry/register"


@pytest.fixture(autouse=True)
def nothing_changes(rest: httpx.Client, environment: str, seed: None) -> Iterator[None]:
    """Asserts that a test adds nothing to the environment's audit trail."""
    before = rest.get("/api/v1/changes", params={"environment": environment}).json()["changes"]
    assert len(before) == 2
    yield
    assert rest.get("/api/v1/changes", params={"environment": environment}).json()["changes"] == before


@pytest.fixture
def seed(rest: httpx.Client, environment: str) -> None:
    rest.post(CONFIG, json={"key": "k", "value": 1, "environment": environment}).raise_for_status()
    rest.post(FLAGS, json={"name": "f", "environment": environment}).raise_for_status()


def refused(answer: httpx.Response, status: int, *, reason: str = "", field: str = "") -> None:
    """Asserts the shape of an error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert isinstance(body["code"], int)
    assert body["message"]
    info = next(d for d in body["details"] if d["@type"] == "type.googleapis.com/google.rpc.ErrorInfo")
    assert info["reason"].isupper()
    if reason:
        assert info["reason"] == reason
    if field:
        bad = next(d for d in body["details"] if d["@type"] == "type.googleapis.com/google.rpc.BadRequest")
        assert field in [violation["field"] for violation in bad["field_violations"]]
        assert field in body["message"]


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"key":', b"key=1", b'{"key":"a" "value":1}', b"\xff\xfe"])
def test_malformed_json_is_refused(rest: httpx.Client, body: bytes) -> None:
    for path in (CONFIG, FLAGS, REGISTER):
        refused(rest.post(path, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize("missing", ["key", "value", "environment"])
def test_missing_field_is_named(rest: httpx.Client, environment: str, missing: str) -> None:
    body = {"key": "x", "value": 1, "environment": environment}
    del body[missing]
    refused(rest.post(CONFIG, json=body), 400, field=missing)


def test_empty_body_names_every_required_field(rest: httpx.Client) -> None:
    answer = rest.post(CONFIG, json={})
    for field in ("key", "value", "environment"):
        refused(answer, 400, field=field)


@pytest.mark.parametrize(
    ("field", "value"),
    [("key", "k" * 513), ("description", "d" * 4097), ("reason", "r" * 1025), ("request_id", "i" * 129),
     ("environment", "e" * 65), ("service_name", "s" * 129), ("value", "v" * (1 << 20))],
)  # fmt: skip
def test_too_long_field_is_named(rest: httpx.Client, environment: str, field: str, value: str) -> None:
    refused(
        rest.post(CONFIG, json={"key": "x", "value": 1, "environment": environment, field: value}), 400, field=field
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [(CONFIG, {"key": 1.5, "value": 1}), (CONFIG, {"key": ["a"], "value": 1}), (FLAGS, {"name": "x", "enabled": "maybe"}),
     (FLAGS, {"name": "x", "rollout_percentage": "many"}), (REGISTER, {"service_name": {}, "service_url": "http://a"}),
     (FLAGS, {"name": "x", "targeted_users": {"a": 1}}), (FLAGS, {"name": "x", "rules": [{"conditions": 7}]})],
)  # fmt: skip
def test_wrong_types_are_refused(rest: httpx.Client, environment: str, path: str, body: dict[str, object]) -> None:
    refused(rest.post(path, json={"environment": environment, **body}), 400)


def test_unknown_query_parameter_is_refused(rest: httpx.Client, environment: str) -> None:
    refused(rest.get(CONFIG, params={"environment": environment, "pagesize": 1}), 400)


def test_unknown_route_is_404(rest: httpx.Client) -> None:
    for path in ("/", "/api", "/api/v1/nope", "/api/v2/config"):
        refused(rest.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PATCH", CONFIG, "GET, HEAD, POST, OPTIONS"), ("DELETE", CONFIG, "GET, HEAD, POST, OPTIONS"),
     ("PUT", REGISTER, "POST, OPTIONS"), ("GET", REGISTER, "POST, OPTIONS"), ("POST", "/health", "GET, HEAD, OPTIONS"),
     ("POST", f"{CONFIG}:watch", "GET, OPTIONS"), ("GET", f"{CONFIG}/bulk", "POST, OPTIONS")],
)  # fmt: skip
def test_wrong_method_is_405_with_allow(rest: httpx.Client, method: str, path: str, allowed: str) -> None:
    answer = rest.request(method, path)
    refused(answer, 405, reason="METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("path", "parameter"),
    [(f"{CONFIG}/k", "key"), (f"{CONFIG}/k/history", "key"), (f"{FLAGS}/f", "name"), (f"{CONFIG}/k", "%6bey"),
     ("/api/v1/registry/services/s", "service_name"), ("/api/v1/registry/discover/s", "service_name")],
)  # fmt: skip
def test_query_parameter_can_not_override_the_path(
    rest: httpx.Client, environment: str, path: str, parameter: str
) -> None:
    for method in ("GET", "DELETE") if path in (f"{CONFIG}/k", f"{FLAGS}/f") else ("GET",):
        refused(rest.request(method, f"{path}?environment={environment}&{parameter}=f"), 400)


@pytest.mark.parametrize("token", ["x", "!!", "WyJhIiwxXQ", "null"])
def test_malformed_page_token_is_refused(rest: httpx.Client, environment: str, token: str) -> None:
    for path in (CONFIG, FLAGS, "/api/v1/changes", f"{CONFIG}/k/history"):
        answer = rest.get(path, params={"environment": environment, "page_token": token})
        refused(answer, 400, reason="BAD_PAGE_TOKEN", field="page_token")


def test_page_token_of_another_query_is_refused(rest: httpx.Client, environment: str) -> None:
    page = rest.get("/api/v1/changes", params={"environment": environment, "page_size": 1}).json()
    query = {"environment": environment, "page_size": 1, "kind": "flag", "page_token": page["next_page_token"]}
    refused(rest.get("/api/v1/changes", params=query), 400, field="page_token")


@pytest.mark.parametrize("size", [-1, 1001])
def test_page_size_out_of_range_is_refused(rest: httpx.Client, environment: str, size: int) -> None:
    refused(rest.get(CONFIG, params={"environment": environment, "page_size": size}), 400, field="page_size")


def test_stale_etag_is_refused(rest: httpx.Client, environment: str) -> None:
    body = {"value": 2, "environment": environment, "etag": "1-ffff"}
    refused(rest.put(f"{CONFIG}/k", json=body), 409, reason="STALE_ETAG")
    refused(
        rest.put(f"{FLAGS}/f", json={"environment": environment, "enabled": True, "etag": "x"}),
        409,
        reason="STALE_ETAG",
    )
    gone = rest.request("DELETE", f"{CONFIG}/k", params={"environment": environment}, headers={"if-match": '"x"'})
    refused(gone, 409, reason="STALE_ETAG")


def test_duplicate_create_is_refused(rest: httpx.Client, environment: str) -> None:
    again = rest.post(CONFIG, json={"key": "k", "value": 2, "environment": environment})
    refused(again, 409, reason="CONFIG_ALREADY_EXISTS")
    refused(rest.post(FLAGS, json={"name": "f", "environment": environment}), 409, reason="FLAG_ALREADY_EXISTS")


def test_missing_resource_is_404(rest: httpx.Client, environment: str) -> None:
    scope = {"environment": environment}
    refused(rest.get(f"{CONFIG}/nope", params=scope), 404, reason="CONFIG_NOT_FOUND")
    refused(rest.put(f"{CONFIG}/nope", json={**scope, "value": 1}), 404, reason="CONFIG_NOT_FOUND")
    refused(rest.request("DELETE", f"{CONFIG}/nope", params=scope), 404, reason="CONFIG_NOT_FOUND")
    refused(rest.get(f"{CONFIG}/nope/history", params=scope), 404, reason="CONFIG_NOT_FOUND")
    refused(rest.post(f"{CONFIG}/k:rollback", json={**scope, "version": 9}), 404, reason="VERSION_NOT_FOUND")
    refused(rest.post(f"{FLAGS}/evaluate", json={**scope, "flag_name": "nope"}), 404, reason="FLAG_NOT_FOUND")
    refused(rest.get("/api/v1/registry/services/nope"), 404, reason="SERVICE_NOT_FOUND")


STRINGS = {"value_type": "string", "variants": [{"name": "a", "value": "x"}], "default_variant": "a"}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"rollout_percentage": 100.5}, "rollout_percentage"),
        ({"rollout_percentage": -1}, "rollout_percentage"),
        ({"rollout_percentage": 0.00001}, "rollout_percentage"),
        ({"default_variant": "nope"}, "default_variant"),
        ({**STRINGS, "on_variant": "nope"}, "on_variant"),
        ({"rules": [{"variant": "nope"}]}, "rules[0].variant"),
        ({"rules": [{"variant": "on", "conditions": [{"attribute": "a", "operator": "matches", "values": ["(a)\\1"]}]}]},
         "rules[0].conditions[0].values[0]"),
        ({"rules": [{"variant": "on", "conditions": [{"attribute": "a", "operator": "near", "values": ["x"]}]}]},
         "rules[0].conditions[0].operator"),
        ({"rollout_split": [{"variant": "on", "weight": 0}]}, "rollout_split"),
        ({"value_type": "colour"}, "value_type"),
        ({"name": "evaluate"}, "name"),
        ({"name": "with space"}, "name"),
    ],
)  # fmt: skip
def test_inconsistent_flag_is_refused(
    rest: httpx.Client, environment: str, more: dict[str, object], field: str
) -> None:
    refused(rest.post(FLAGS, json={"name": "g", "environment": environment, "enabled": True, **more}), 400, field=field)


def test_missing_and_cyclic_prerequisites_are_refused(rest: httpx.Client, environment: str) -> None:
    needs = [{"flag_name": "nope", "variants": ["on"]}]
    body = {"name": "g", "environment": environment, "prerequisites": needs}
    refused(rest.post(FLAGS, json=body), 400)
    itself = [{"flag_name": "f", "variants": ["on"]}]
    refused(rest.put(f"{FLAGS}/f", json={"environment": environment, "prerequisites": itself}), 400)


@pytest.mark.parametrize(
    "url", ["ftp://a", "asr-service", "http://", "http://a:99999", "javascript:alert(1)", "http://u:p@a"]
)
def test_url_with_bad_scheme_or_syntax_is_refused(rest: httpx.Client, url: str) -> None:
    refused(rest.post(REGISTER, json={"service_name": "s", "service_url": url}), 400, field="service_url")
    body = {"service_name": "s", "service_url": "http://a", "health_check_url": url}
    refused(rest.post(REGISTER, json=body), 400, field="health_check_url")


def test_body_above_the_limit_is_refused(rest: httpx.Client, environment: str) -> None:
    body = {"key": "big", "value": "v" * (32 << 20), "environment": environment}
    refused(rest.post(CONFIG, json=body), 413)


def test_body_whose_message_exceeds_the_limit_is_refused(rest: httpx.Client, environment: str) -> None:
    """A number takes two bytes in JSON and eleven in a message: such a body once took 20 s (504) and delayed others."""
    body = f'{{"key":"many","environment":"{environment}","value":[{",".join(["1"] * 4_000_000)}]}}'
    answer = rest.post(CONFIG, content=body, headers={"content-type": "application/json"})
    refused(answer, 413, reason="BODY_TOO_LARGE")


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63, 10**30])
def test_integer_that_json_clients_round_is_refused(rest: httpx.Client, environment: str, number: int) -> None:
    for value in (number, {"deep": [number]}):
        body = json.dumps({"key": "n", "value": value, "environment": environment})
        refused(rest.post(CONFIG, content=body, headers={"content-type": "application/json"}), 400, field="value")


@pytest.mark.parametrize("depth", [31, 40, 60, 1_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_too_deeply_nested_value_is_refused(
    rest: httpx.Client, environment: str, opening: str, closing: str, depth: int
) -> None:
    value = f"{opening * depth}1{closing * depth}"
    body = f'{{"key":"n","environment":"{environment}","value":{value}}}'
    refused(rest.post(CONFIG, content=body, headers={"content-type": "application/json"}), 400)


def test_path_that_is_not_utf_8_is_refused(rest: httpx.Client, environment: str) -> None:
    refused(rest.get(f"{CONFIG}/a%ffb?environment={environment}"), 400, reason="MALFORMED_REQUEST")


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "a\\udc00b"])
@pytest.mark.parametrize("field", ["key", "environment", "service_name", "description", "reason"])
def test_nul_and_lone_surrogates_are_refused(rest: httpx.Client, environment: str, field: str, text: str) -> None:
    body = {"key": "n", "value": 1, "environment": environment, "service_name": "s", field: "@"}
    content = json.dumps(body).replace('"@"', f'"{text}"')
    refused(rest.post(CONFIG, content=content, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    "key", ["bulk", "a/history", "a:rollback", "a/b:diff", "x:watch", "/a", "a/", "a//b", "a/../b"]
)
def test_key_that_rest_can_not_address_is_refused(rest: httpx.Client, environment: str, key: str) -> None:
    refused(rest.post(CONFIG, json={"key": key, "value": 1, "environment": environment}), 400, field="key")


def test_fields_without_effect_are_refused(rest: httpx.Client, environment: str) -> None:
    both = {"environment": environment, "operations": [{"key": "k", "value": 2, "delete": True}]}
    refused(rest.post(f"{CONFIG}:batchWrite", json=both), 400, field="operations[0].value")
    one = {"flag_name": "f", "user_id": "u", "environment": environment}
    also: list[dict[str, object]] = [
        {"explain": True}, {"environment": environment}, {"flag_names": ["f"]}, {"attributes": {}}
    ]  # fmt: skip
    for more in also:
        refused(rest.post(f"{FLAGS}/evaluate/batch", json={"requests": [one], **more}), 400, field="requests")
    waiting = {"requests": [one, {**one, "min_revision": "999999999"}]}
    refused(rest.post(f"{FLAGS}/evaluate/batch", json=waiting), 400, field="requests[1].min_revision")


def test_batch_with_a_failing_last_write_changes_nothing(rest: httpx.Client, environment: str) -> None:
    operations = [{"key": f"n{index}", "value": index} for index in range(9)]
    body = {"environment": environment, "operations": [*operations, {"key": "k", "value": 1, "etag": "old"}]}
    answer = rest.post(f"{CONFIG}:batchWrite", json=body)
    refused(answer, 409, reason="STALE_ETAG")
    assert "operations[9]" in answer.text


@pytest.mark.parametrize("after", ["999999999", "-1"])
def test_watch_from_an_unavailable_revision_is_refused(rest: httpx.Client, environment: str, after: str) -> None:
    query = {"environment": environment, "after_revision": after}
    with rest.stream("GET", f"{CONFIG}:watch", params=query) as stream:
        body = "".join(stream.iter_text())
    assert "REVISION_OUT_OF_RANGE" in body
    assert "oldest_revision" in body


def test_caller_that_knows_another_history_is_refused(rest: httpx.Client, environment: str) -> None:
    current = rest.get("/live").headers["x-history"]
    scope = {"environment": environment}
    assert rest.get(CONFIG, params=scope, headers={"x-history": current}).status_code == 200
    lost = rest.get(CONFIG, params=scope, headers={"x-history": "another"})
    refused(lost, 400, reason="HISTORY_CHANGED")
    assert lost.headers["x-history"] == current
