"""Every REST route for configurations, through a real Envoy."""

import json
import threading
from collections.abc import Callable
from urllib.parse import quote

import httpx
import pytest


def create(rest: httpx.Client, environment: str, key: str, value: object, **more: object) -> httpx.Response:
    return rest.post("/api/v1/config", json={"key": key, "value": value, "environment": environment, **more})


@pytest.mark.parametrize("slash", ["", "/"])
def test_create_answers_201_with_location_and_etag(rest: httpx.Client, environment: str, slash: str) -> None:
    body = {"key": "model_path", "value": "/models/asr", "environment": environment, "service_name": "asr-service"}
    answer = rest.post(f"/api/v1/config{slash}", json=body)
    assert answer.status_code == 201, answer.text
    config = answer.json()
    assert {**body, "version": 1, "updated_by": "anonymous", "description": ""}.items() <= config.items()
    assert isinstance(config["revision"], str)
    assert answer.headers["etag"] == f'"{config["etag"]}"'
    assert rest.get(answer.headers["location"]).json() == config


def test_put_that_creates_answers_201_also_after_a_delete(rest: httpx.Client, environment: str) -> None:
    body = {"value": 1, "environment": environment, "allow_missing": True}
    for _ in range(2):
        made = rest.put("/api/v1/config/k", json=body)
        assert made.status_code == 201, made.text
        assert rest.get(made.headers["location"]).json() == made.json()
        assert rest.put("/api/v1/config/k", json=body).status_code == 200
        assert rest.request("DELETE", "/api/v1/config/k", params={"environment": environment}).is_success
    again = rest.put("/api/v1/config/k", json=body, headers={"if-none-match": "*"})
    assert (again.status_code, again.json()["version"]) == (201, 7)


@pytest.mark.parametrize(
    "key",
    ["a.b.c", "a/b/c", "with space", "schlüssel/ключ/键", "100%", "a+b", "a?b#c", "q=1&r=2", "ünï.cödé", "🎉", "a:b"],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_unusual_keys_can_be_addressed(rest: httpx.Client, environment: str, key: str, slash: str) -> None:
    scope = {"environment": environment}
    assert create(rest, environment, key, 1).status_code == 201
    for path in (quote(key, safe="/"), quote(key, safe="")):
        url = f"/api/v1/config/{path}"
        got = rest.get(url + slash, params=scope)
        assert got.status_code == 200, got.text
        assert got.json()["key"] == key
        put = rest.put(url + slash, json={**scope, "value": 2})
        assert put.status_code == 200, put.text
        history = rest.get(f"{url}/history{slash}", params=scope).json()["versions"]
        assert [v["version"] for v in history] == list(range(len(history), 0, -1))
    assert rest.request("DELETE", url + slash, params=scope).status_code == 200
    assert rest.get(url, params=scope).status_code == 404


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -1, 1.5, 1e-7, 9007199254740991, "", "text", "é\u0000\n🎉", [], {}, [1, [2, {"a": None}]],
     {"a.b": {"c": [True, "x", 1e100 / 3e100]}}],
)  # fmt: skip
def test_values_are_returned_as_they_were_sent(rest: httpx.Client, environment: str, value: object) -> None:
    assert create(rest, environment, "k", value).status_code == 201
    assert rest.get("/api/v1/config/k", params={"environment": environment}).json()["value"] == value


@pytest.mark.parametrize("around", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_value_nested_to_the_limit_can_be_read_everywhere(
    rest: httpx.Client, environment: str, around: Callable[[object], object]
) -> None:
    value: object = 1
    for _ in range(30):
        value = around(value)
    scope = {"environment": environment}
    assert create(rest, environment, "k", 0).status_code == 201
    assert rest.put("/api/v1/config/k", json={**scope, "value": value}).json()["value"] == value
    batch = {**scope, "operations": [{"key": "b", "value": value}]}
    assert rest.post("/api/v1/config:batchWrite", json=batch).json()["configs"][0]["value"] == value
    assert rest.post("/api/v1/config/bulk", json={**scope, "keys": ["k"]}).json()["configs"][0]["value"] == value
    assert rest.get("/api/v1/config", params=scope).json()["configs"][1]["value"] == value
    assert rest.get("/api/v1/config/k/history", params=scope).json()["versions"][0]["after"] == value
    diff = rest.get("/api/v1/config/k:diff", params={**scope, "from_version": 1}).json()
    assert diff["differences"][0]["after"] == diff["to"]["after"] == value
    effective = rest.get("/api/v1/config:effective", params={**scope, "service_name": "s"}).json()["configs"]
    assert effective[1]["value"] == value
    assert rest.get("/api/v1/changes", params=scope).json()["changes"][0]["after"]["value"] == value
    with rest.stream("GET", "/api/v1/config:watch", params=scope) as stream:
        assert json.loads(next(stream.iter_lines()))["snapshot"]["configs"][1]["value"] == value


def test_etags_guard_updates_and_make_reads_conditional(rest: httpx.Client, environment: str) -> None:
    scope = {"environment": environment}
    etag = create(rest, environment, "k", 1).headers["etag"]
    same = rest.get("/api/v1/config/k", params=scope, headers={"if-none-match": etag})
    assert (same.status_code, same.content) == (304, b"")
    updated = rest.put("/api/v1/config/k", json={**scope, "value": 2}, headers={"if-match": etag})
    assert updated.status_code == 200
    stale = rest.put("/api/v1/config/k", json={**scope, "value": 3}, headers={"if-match": etag})
    assert stale.status_code == 409
    assert stale.json()["details"][0]["reason"] == "STALE_ETAG"
    assert rest.get("/api/v1/config/k", params=scope).json() == updated.json()
    # A resource can be written back as it was read, including its etag.
    assert rest.put("/api/v1/config/k", json=updated.json()).status_code == 200


def test_history_lists_every_version_newest_first(rest: httpx.Client, environment: str) -> None:
    scope = {"environment": environment}
    create(rest, environment, "k", "one", reason="begin")
    rest.put("/api/v1/config/k", json={**scope, "value": "two", "reason": "more"}, headers={"x-actor": "ana"})
    rest.request("DELETE", "/api/v1/config/k", params={**scope, "reason": "done"})
    create(rest, environment, "k", "three")
    versions = rest.get("/api/v1/config/k/history", params=scope).json()["versions"]
    assert [(v["version"], v["action"], v["reason"]) for v in versions] == [
        (4, "CREATE", ""), (3, "DELETE", "done"), (2, "UPDATE", "more"), (1, "CREATE", "begin"),
    ]  # fmt: skip
    assert (versions[2]["before"], versions[2]["after"], versions[2]["actor"]) == ("one", "two", "ana")
    assert all(v["at"] and v["revision"] for v in versions)


def test_list_filters_and_pages(rest: httpx.Client, environment: str) -> None:
    for key, service in (("a/1", ""), ("a/2", "s"), ("b", ""), ("b", "s"), ("c", "t")):
        assert create(rest, environment, key, 1, service_name=service).status_code == 201

    def keys(query: str) -> list[tuple[str, str]]:
        answer = rest.get(f"/api/v1/config?environment={environment}&{query}")
        assert answer.status_code == 200, answer.text
        return [(c["key"], c["service_name"]) for c in answer.json()["configs"]]

    everything = [("a/1", ""), ("a/2", "s"), ("b", ""), ("b", "s"), ("c", "t")]
    assert keys("") == everything
    assert keys("service_name=s") == [("a/2", "s"), ("b", "s")]
    assert keys("service_name=") == [("a/1", ""), ("b", "")]
    assert keys("prefix=a/") == everything[:2]
    for query in ("keys=b&keys=c", "keys[]=b&keys[]=c", "keys%5B%5D=b&keys%5B%5D=c"):
        assert keys(query) == everything[2:]
    token, paged = "", []
    while True:
        page = rest.get(
            "/api/v1/config/", params={"environment": environment, "page_size": 2, "page_token": token}
        ).json()
        paged += [(c["key"], c["service_name"]) for c in page["configs"]]
        token = page["next_page_token"]
        if not token:
            break
    assert paged == everything


def test_long_key_list_and_large_headers_are_accepted(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "k", 1)
    # 60 kB each; the gateway takes 96 KiB in all.
    names = "&".join(f"keys={'n' * 94}{number:04}" for number in range(600))
    for url, headers in (
        (f"/api/v1/config?environment={environment}&keys=k&{names}", {}),
        ("/api/v1/config", {"cookie": "c" * 60_000}),
    ):
        for _ in range(5):
            answer = rest.get(url, params={"environment": environment} if headers else None, headers=headers)
            assert answer.status_code == 200, answer.text


def test_bulk_get_names_missing_keys(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "a", 1)
    for path in ("/api/v1/config/bulk", "/api/v1/config/bulk/"):
        answer = rest.post(path, json={"keys": ["a", "nope"], "environment": environment}).json()
        assert [c["key"] for c in answer["configs"]] == ["a"]
        assert answer["missing"] == ["nope"]


def test_effective_view_merges_service_and_shared_values(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "both", "shared")
    create(rest, environment, "both", "own", service_name="s")
    create(rest, environment, "shared-only", 1)
    create(rest, environment, "other", 1, service_name="t")
    for path in ("/api/v1/config:effective", "/api/v1/config:effective/"):
        answer = rest.get(path, params={"environment": environment, "service_name": "s"})
        assert answer.status_code == 200, answer.text
        entries = [(c["key"], c["value"], c["source"], c["overrides_shared"]) for c in answer.json()["configs"]]
        assert entries == [("both", "own", "service", True), ("shared-only", 1, "shared", False)]


def test_effective_value_of_one_key(rest: httpx.Client, environment: str) -> None:
    url, query = "/api/v1/config/a/b%20c:effective", {"environment": environment, "service_name": "asr"}
    missing = rest.get(url, params=query)
    assert (missing.status_code, missing.json()["details"][0]["reason"]) == (404, "CONFIG_NOT_FOUND")
    seen = []
    for service, value in (("", "shared"), ("asr", "own"), ("other", "of another")):
        revision = create(rest, environment, "a/b c", value, service_name=service).json()["revision"]
        answer = rest.get(url, params={**query, "min_revision": revision})
        assert answer.status_code == 200, answer.text
        entry = answer.json()
        everything = rest.get("/api/v1/config:effective", params=query).json()["configs"]
        assert [entry] == everything, "the same entry as in the list"
        seen.append((entry["value"], entry["source"], entry["overrides_shared"]))
        assert rest.get(url, params=query, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert seen == [("shared", "shared", False), ("own", "service", True), ("own", "service", True)]
    slash = rest.get("/api/v1/config/a/b c:effective/", params=query)
    assert slash.json()["value"] == "own"
    assert rest.get(url, params={"environment": environment}).status_code == 400, "the effective view needs a service"
    assert rest.post(url, json={}).headers["allow"] == "GET, HEAD, OPTIONS"


def test_etag_of_an_effective_value_covers_all_its_fields(rest: httpx.Client, environment: str) -> None:
    """In a batch the shared value and the service's value get the same version and revision."""
    operations = [{"key": "k", "value": 1}, {"key": "k", "value": 1, "service_name": "asr"}]
    batch = rest.post("/api/v1/config:batchWrite", json={"environment": environment, "operations": operations})
    assert len({config["etag"] for config in batch.json()["configs"]}) == 1
    url, query = "/api/v1/config/k:effective", {"environment": environment, "service_name": "asr"}
    tags = [rest.get(url, params=query).headers["etag"]]
    for service in ("", "asr"):
        deleted = rest.delete("/api/v1/config/k", params={"environment": environment, "service_name": service})
        assert deleted.is_success
        answer = rest.get(url, params=query, headers={"if-none-match": tags[-1]})
        if service == "":
            assert (answer.status_code, answer.json()["overrides_shared"]) == (200, False)
            tags.append(answer.headers["etag"])
            again = rest.post("/api/v1/config", json={"environment": environment, "key": "k", "value": 2})
            assert again.status_code == 201
        else:
            assert (answer.status_code, answer.json()["source"]) == (200, "shared")
    assert len(set(tags)) == 2


def test_batch_write_is_all_or_nothing_in_one_revision(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "old", 1)
    operations = [{"key": "new", "value": {"x": 1}, "must_not_exist": True}, {"key": "old", "delete": True}]
    done = rest.post("/api/v1/config:batchWrite", json={"environment": environment, "operations": operations})
    assert done.status_code == 200, done.text
    assert done.json()["deleted"] == ["old"]
    assert done.json()["configs"][0]["revision"] == done.json()["revision"]
    again = [{"key": "other", "value": 1}, *operations]
    refused = rest.post("/api/v1/config:batchWrite/", json={"environment": environment, "operations": again})
    assert refused.status_code == 409, refused.text
    listed = rest.get("/api/v1/config", params={"environment": environment}).json()["configs"]
    assert [c["key"] for c in listed] == ["new"]


def test_rollback_restores_a_version_and_diff_compares_two(rest: httpx.Client, environment: str) -> None:
    scope = {"environment": environment}
    create(rest, environment, "a/b", {"x": 1, "y": [1, 2]})
    rest.put("/api/v1/config/a/b", json={**scope, "value": {"x": 2, "y": [1]}})
    for slash in ("", "/"):
        diff = rest.get(f"/api/v1/config/a/b:diff{slash}", params={**scope, "from_version": 1, "to_version": 2})
        assert diff.status_code == 200, diff.text
        assert [(d["path"], d["op"]) for d in diff.json()["differences"]] == [("/x", "replace"), ("/y/1", "remove")]
        back = rest.post(f"/api/v1/config/a/b:rollback{slash}", json={**scope, "version": 1})
        assert back.status_code == 200, back.text
        assert back.json()["value"] == {"x": 1, "y": [1, 2]}
    assert back.json()["version"] == 4
    history = rest.get("/api/v1/config/a/b/history", params=scope).json()["versions"]
    assert history[0]["action"] == "ROLLBACK"


def test_retry_with_the_same_request_id_has_one_effect(rest: httpx.Client, environment: str) -> None:
    first = create(rest, environment, "k", 1, request_id=f"r-{environment}")
    second = create(rest, environment, "k", 1, request_id=f"r-{environment}")
    assert (second.status_code, second.json()) == (201, first.json())
    other = create(rest, environment, "k2", 1, request_id=f"r-{environment}")
    assert other.status_code == 400
    assert other.json()["details"][0]["reason"] == "REQUEST_ID_REUSED"


def test_watch_sends_the_state_then_each_change(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "k", 1)
    params = {"environment": environment}
    with rest.stream("GET", "/api/v1/config:watch", params=params, timeout=20) as stream:
        lines = (json.loads(line) for line in stream.iter_lines() if line.strip())
        assert [c["key"] for c in next(lines)["snapshot"]["configs"]] == ["k"]
        synced = int(next(lines)["synced"]["revision"])
        writer = threading.Thread(target=rest.put, args=("/api/v1/config/k",), kwargs={"json": {**params, "value": 2}})
        writer.start()
        change = next(lines)["change"]
        writer.join()
        assert (change["type"], change["config"]["value"], change["previous"]["value"]) == ("PUT", 2, 1)
        assert int(change["revision"]) > synced
    rest.request("DELETE", "/api/v1/config/k", params=params)
    resume = {**params, "after_revision": change["revision"]}
    with rest.stream("GET", "/api/v1/config:watch", params=resume, headers={"accept": "text/event-stream"}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))
        assert "synced" in next(events)
        assert next(events)["change"]["type"] == "DELETE"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_watch_over_rest_marks_the_end_of_a_batch(rest: httpx.Client, environment: str, accept: str) -> None:
    operations = [{"key": key, "value": 1} for key in "abc"]
    query = {"environment": environment, "after_revision": "0"}
    body = {"environment": environment, "operations": operations}
    revision = rest.post("/api/v1/config:batchWrite", json=body).json()["revision"]
    with rest.stream("GET", "/api/v1/config:watch", params=query, headers={"accept": accept}) as stream:
        lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line.strip())
        messages = [json.loads(next(lines)) for _ in range(4)]
    marks = [(m["change"]["revision"], m["change"]["revision_complete"]) for m in messages if "change" in m]
    assert marks == [(revision, False), (revision, False), (revision, True)]


def test_audit_trail_has_every_write_of_every_kind(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "k", 1, reason="because")
    rest.post("/api/v1/feature-flags", json={"name": "f", "environment": environment}, headers={"x-actor": "bo"})
    for path in ("/api/v1/changes", "/api/v1/changes/"):
        changes = rest.get(path, params={"environment": environment}).json()["changes"]
        assert [(c["kind"], c["key"], c["action"]) for c in changes] == [
            ("flag", "f", "CREATE"), ("config", "k", "CREATE")]  # fmt: skip

    def keys(**query: str) -> list[str]:
        answer = rest.get("/api/v1/changes", params={"environment": environment, **query})
        return [change["key"] for change in answer.json()["changes"]]

    # The version is a member of the change; `after` holds only the definition.
    assert "version" not in changes[0]["after"]
    assert keys(kind="config") == keys(reason="because") == keys(key="k") == ["k"]
    assert keys(actor="bo") == keys(after_revision=changes[1]["revision"]) == ["f"]
    assert keys(until_revision=changes[1]["revision"]) == keys(until_time=changes[0]["at"], key="k") == ["k"]
