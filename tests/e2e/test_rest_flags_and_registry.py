"""Every REST route for flags, the registry and health, through a real Envoy."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.http_target import HttpTarget


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    with HttpTarget() as server:
        yield server


def create(rest: httpx.Client, environment: str, name: str, **more: object) -> httpx.Response:
    return rest.post("/api/v1/feature-flags", json={"name": name, "environment": environment, **more})


@pytest.mark.parametrize("slash", ["", "/"])
def test_flag_create_get_put_history_delete(rest: httpx.Client, environment: str, slash: str) -> None:
    flag = {"name": "new_ui", "environment": environment, "enabled": True, "rollout_percentage": 25,
            "targeted_users": ["u123"]}  # fmt: skip
    made = rest.post(f"/api/v1/feature-flags{slash}", json=flag)
    assert made.status_code == 201, made.text
    assert flag.items() <= made.json().items()
    assert (made.json()["version"], made.json()["value_type"]) == (1, "boolean")
    assert rest.get(made.headers["location"]).json() == made.json()
    # A flag that was read can be edited and written back as a whole.
    put = rest.put(f"/api/v1/feature-flags/new_ui{slash}", json={**made.json(), "rollout_percentage": 50.125})
    assert put.status_code == 200, put.text
    assert (put.json()["rollout_percentage"], put.json()["salt"]) == (50.125, made.json()["salt"])
    listed = rest.get(f"/api/v1/feature-flags{slash}", params={"environment": environment, "enabled": "true"})
    assert [f["name"] for f in listed.json()["flags"]] == ["new_ui"]
    off = rest.get("/api/v1/feature-flags", params={"environment": environment, "enabled": "false"})
    assert off.json()["flags"] == []
    assert rest.request(
        "DELETE", f"/api/v1/feature-flags/new_ui{slash}", params={"environment": environment}
    ).is_success
    history = rest.get(f"/api/v1/feature-flags/new_ui/history{slash}", params={"environment": environment}).json()
    assert [v["action"] for v in history["versions"]] == ["DELETE", "UPDATE", "CREATE"]
    assert rest.get("/api/v1/feature-flags/new_ui", params={"environment": environment}).status_code == 404


def test_flags_are_filtered_by_tag_owner_and_age(rest: httpx.Client, environment: str) -> None:
    made = [
        create(rest, environment, "a", tags=["x", "y"], owner="ann", enabled=True).json(),
        create(rest, environment, "b", tags=["x"], owner="bob").json(),
        create(rest, environment, "c", owner="").json(),
    ]

    def names(query: str) -> list[str]:
        answer = rest.get(f"/api/v1/feature-flags?environment={environment}&{query}")
        assert answer.status_code == 200, answer.text
        return [flag["name"] for flag in answer.json()["flags"]]

    assert names("tags=x") == names("tags[]=x") == names("tags%5B%5D=x") == ["a", "b"]
    assert names("tags=x&tags=y") == names("tags=x&owner=ann&enabled=true") == ["a"]
    assert names("owner=bob") == ["b"]
    assert names("owner=") == ["c"]
    since = made[1]["updated_at"]
    assert names(f"updated_before={since}") == names(f"created_before={since}") == ["a"]
    assert rest.put("/api/v1/feature-flags/a", json={**made[0], "etag": made[0]["etag"]}).is_success
    assert names(f"updated_before={since}") == []
    assert names(f"created_before={since}") == ["a"]
    refused = rest.get(f"/api/v1/feature-flags?environment={environment}&tags={'x' * 129}")
    assert (refused.status_code, "tags[0]" in refused.text) == (400, True)


def test_flag_diff_and_rollback(rest: httpx.Client, environment: str) -> None:
    url, query = "/api/v1/feature-flags/new_ui", {"environment": environment}
    first = create(rest, environment, "new_ui", enabled=True, rollout_percentage=25, targeted_users=["u1"]).json()
    second = rest.put(url, json={"environment": environment, "enabled": True, "rollout_percentage": 50})
    diff = rest.get(f"{url}:diff", params={**query, "from_version": 1})
    assert diff.status_code == 200, diff.text
    differences = {d["path"]: (d["op"], d.get("before"), d.get("after")) for d in diff.json()["differences"]}
    assert differences["/rollout_percentage"] == ("replace", 25, 50)
    assert (diff.json()["from"]["version"], diff.json()["to"]["version"]) == (1, 2)
    stale = rest.post(f"{url}:rollback", json={**query, "version": 1}, headers={"if-match": f'"{first["etag"]}"'})
    assert stale.status_code == 409
    body = {**query, "version": 1, "reason": "too many"}
    back = rest.post(f"{url}:rollback/", json=body, headers={"if-match": second.headers["etag"]})
    assert back.status_code == 200, back.text
    assert (back.json()["version"], back.headers["etag"]) == (3, f'"{back.json()["etag"]}"')
    assert (back.json()["rollout_percentage"], back.json()["targeted_users"]) == (25, ["u1"])
    assert rest.request("DELETE", url, params=query).is_success
    assert rest.post(f"{url}:rollback", json=body).json()["version"] == 5
    history = rest.get(f"{url}/history", params=query).json()["versions"]
    assert [v["action"] for v in history] == ["ROLLBACK", "DELETE", "ROLLBACK", "UPDATE", "CREATE"]
    assert history[0]["reason"] == "too many"
    missing = rest.post(f"{url}:rollback", json={**query, "version": 9})
    assert (missing.status_code, missing.json()["details"][0]["reason"]) == (404, "VERSION_NOT_FOUND")
    assert rest.get(f"{url}:rollback").headers["allow"] == "POST, OPTIONS"
    assert rest.post(f"{url}:rollback", json={"environment": environment}).status_code == 400


def test_batch_changes_configs_and_flags_together(rest: httpx.Client, environment: str) -> None:
    body = {
        "environment": environment,
        "operations": [
            {"create_flag": {"name": "checkout", "enabled": True}},
            {"create_config": {"key": "checkout/limits", "value": {"max": 10}}},
        ],
        "reason": "release",
    }
    tried = rest.post("/api/v1/changes:apply", json={**body, "validate_only": True})
    assert tried.status_code == 200, tried.text
    answer = rest.post("/api/v1/changes:apply/", json=body)
    assert answer.status_code == 200, answer.text
    assert [(r["kind"], r["key"], r["action"]) for r in answer.json()["results"]] == [
        ("flag", "checkout", "CREATE"),
        ("config", "checkout/limits", "CREATE"),
    ]
    query = {"environment": environment}
    for url in ("/api/v1/feature-flags/checkout", "/api/v1/config/checkout/limits"):
        assert rest.get(url, params=query).json()["revision"] == answer.json()["revision"]
    again = rest.post("/api/v1/changes:apply", json=body)
    assert again.status_code == 409, again.text
    assert again.status_code == 409
    assert again.json()["details"][0]["metadata"]["operation"] == "operations[0]"
    assert rest.get("/api/v1/changes:apply").headers["allow"] == "POST, OPTIONS"


def test_update_in_a_batch_clears_the_lists_that_its_body_names(rest: httpx.Client, environment: str) -> None:
    for name in "abc":
        create(rest, environment, name, tags=["t"], targeted_users=["u"], description=name, enabled=True)
    operations: list[dict[str, object]] = [
        {"update_flag": {"name": "a", "tags": []}},
        {"updateFlag": {"name": "b", "targetedUsers": [ ], "tags": None, "enabled": False}},
        {"update_flag": {"name": "c", "tags": [], "description": "", "update_mask": "description"}},
    ]  # fmt: skip
    answer = rest.post("/api/v1/changes:apply", json={"environment": environment, "operations": operations})
    assert answer.status_code == 200, answer.text

    def definition(name: str) -> tuple[object, ...]:
        flag = rest.get(f"/api/v1/feature-flags/{name}", params={"environment": environment}).json()
        return flag["tags"], flag["targeted_users"], flag["description"], flag["enabled"]

    assert definition("a") == ([], ["u"], "a", True)
    assert definition("b") == ([], [], "b", False)
    assert definition("c") == (["t"], ["u"], "", True)
    # The body of a GET can also be an operation, guarded by its etag.
    got = rest.get("/api/v1/feature-flags/c", params={"environment": environment}).json()
    once = {"environment": environment, "operations": [{"update_flag": {**got, "owner": "ann"}}]}
    assert [rest.post("/api/v1/changes:apply", json=once).status_code for _ in range(2)] == [200, 409]
    # Callers can't set the internal header that lists the members of a body.
    only = [{"update_flag": {"name": "c", "enabled": False}}]
    rest.post(
        "/api/v1/changes:apply",
        json={"environment": environment, "operations": only},
        headers={"x-configsvc-emptied": "0:tags"},
    )
    assert definition("c") == (["t"], ["u"], "", False)
    unknown = [{"update_flag": {"name": "c", "rollout": 5}}]
    refused = rest.post("/api/v1/changes:apply", json={"environment": environment, "operations": unknown})
    assert (refused.status_code, "operations[0].update_flag.rollout" in refused.text) == (400, True)


def test_sticky_flag_keeps_assignments_on_embedded_defaults(rest: httpx.Client, environment: str) -> None:
    flag = {"environment": environment, "enabled": True, "sticky": True, "rollout_percentage": 50}
    assert create(rest, name="sticky", **flag).status_code == 201  # type: ignore[arg-type]
    users = [f"u{number}" for number in range(40)]

    def given() -> list[bool]:
        requests = [{"flag_name": "sticky", "user_id": user, "environment": environment} for user in users]
        answer = rest.post("/api/v1/feature-flags/evaluate/batch", json={"requests": requests})
        assert answer.status_code == 200, answer.text
        return [result["enabled"] for result in answer.json()["results"]]

    before = given()
    assert set(before) == {True, False}
    assert rest.put("/api/v1/feature-flags/sticky", json={**flag, "rollout_percentage": 0}).is_success
    assert given() == before
    kept = {"flag_name": "sticky", "user_id": users[before.index(True)], "environment": environment, "explain": True}
    explained = rest.post("/api/v1/feature-flags/evaluate", json=kept).json()
    assert (explained["reason"], explained["explanation"]["decided_by"]) == ("SPLIT", "assignment")
    assert rest.put("/api/v1/feature-flags/sticky", json={**flag, "enabled": False}).is_success
    assert not any(given())
    assert rest.put("/api/v1/feature-flags/sticky", json={**flag, "rollout_percentage": 0}).is_success
    assert not any(given()), "disabling the flag ended its assignments"


@pytest.mark.parametrize("slash", ["", "/"])
def test_evaluation_can_be_explained(rest: httpx.Client, environment: str, slash: str) -> None:
    create(rest, environment, "new_ui", enabled=True, rollout_percentage=0, targeted_users=["u123"])
    body = {"flag_name": "new_ui", "user_id": "u123", "environment": environment}
    answer = rest.post(f"/api/v1/feature-flags/evaluate{slash}", json=body)
    assert answer.status_code == 200, answer.text
    expected = {"flag_name": "new_ui", "user_id": "u123", "enabled": True, "value": True, "variant": "on",
                "reason": "TARGETING_MATCH", "version": 1}  # fmt: skip
    assert expected.items() <= answer.json().items()
    other = rest.post(f"/api/v1/feature-flags/evaluate{slash}", json={**body, "user_id": "x", "explain": True}).json()
    assert (other["enabled"], other["variant"], other["reason"]) == (False, "off", "DEFAULT")
    assert other["explanation"]


def test_next_evaluation_sees_a_write(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "f", enabled=True)
    body = {"flag_name": "f", "user_id": "u", "environment": environment}
    for percentage, value in ((100, True), (0, False), (100, True)):
        rest.put("/api/v1/feature-flags/f", json={"environment": environment, "rollout_percentage": percentage})
        assert rest.post("/api/v1/feature-flags/evaluate", json=body).json()["value"] is value


def test_error_in_a_batch_evaluation_affects_only_its_item(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "a", enabled=True, rollout_percentage=100)
    create(rest, environment, "b")
    url = "/api/v1/feature-flags/evaluate/batch"
    named = rest.post(url, json={"flag_names": ["a", "nope"], "user_id": "u", "environment": environment}).json()
    assert named["results"][0]["value"] is True
    assert named["results"][1]["error"]["code"] == "FLAG_NOT_FOUND"
    everything = rest.post(f"{url}/", json={"user_id": "u", "environment": environment}).json()["results"]
    assert [(r["flag_name"], r["value"]) for r in everything] == [("a", True), ("b", False)]
    requests = [{"flag_name": "a", "user_id": user, "environment": environment} for user in ("x", "y")]
    many = rest.post(url, json={"requests": [*requests, {"flag_name": "a", "environment": ""}]}).json()["results"]
    assert [r["user_id"] for r in many[:2]] == ["x", "y"]
    assert many[2]["error"]["code"]


def test_multivariate_flag_with_rules_splits_and_prerequisites(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "base", enabled=True, rollout_percentage=100)
    rules = [{"name": "beta", "conditions": [{"attribute": "plan", "operator": "in", "values": ["beta"]}],
              "variant": "blue"}]  # fmt: skip
    made = create(
        rest, environment, "colour", enabled=True, value_type="string", default_variant="red",
        variants=[{"name": "red", "value": "#f00"}, {"name": "blue", "value": "#00f"}], rules=rules,
        rollout_percentage=100, rollout_split=[{"variant": "red", "weight": 1}, {"variant": "blue", "weight": 1}],
        prerequisites=[{"flag_name": "base", "variants": ["on"]}],
    )  # fmt: skip
    assert made.status_code == 201, made.text

    def served(user: str, **attributes: object) -> tuple[str, str]:
        body = {"flag_name": "colour", "user_id": user, "environment": environment, "attributes": attributes}
        answer = rest.post("/api/v1/feature-flags/evaluate", json=body).json()
        return answer["value"], answer["reason"]

    assert served("u", plan="beta") == ("#00f", "TARGETING_MATCH")
    assert {served(f"user-{n}") for n in range(50)} == {("#f00", "SPLIT"), ("#00f", "SPLIT")}
    refused = rest.request("DELETE", "/api/v1/feature-flags/base", params={"environment": environment})
    assert (refused.status_code, refused.json()["details"][0]["reason"]) == (400, "FLAG_IS_PREREQUISITE")


def test_flag_watch_sends_changes(rest: httpx.Client, environment: str) -> None:
    create(rest, environment, "f")
    with rest.stream("GET", "/api/v1/feature-flags:watch", params={"environment": environment}) as stream:
        lines = (json.loads(line) for line in stream.iter_lines() if line.strip())
        assert [f["name"] for f in next(lines)["snapshot"]["flags"]] == ["f"]
        assert "synced" in next(lines)
        create(rest, environment, "g")
        change = next(lines)["change"]
        assert (change["type"], change["flag"]["name"]) == ("PUT", "g")


@pytest.mark.parametrize("slash", ["", "/"])
def test_instance_register_discover_heartbeat_deregister(rest: httpx.Client, environment: str, slash: str) -> None:
    service = f"asr-{environment}-{len(slash)}"
    body = {
        "service_name": service,
        "service_url": "http://asr-service:8087",
        "metadata": {"tier": "gold"},
        "zone": "z1",
    }
    made = rest.post(f"/api/v1/registry/register{slash}", json=body)
    assert made.status_code == 201, made.text
    instance = made.json()
    assert {**body, "status": "HEALTHY", "weight": 100, "lease_ttl_seconds": 30}.items() <= instance.items()
    for query in ("", "?metadata=tier=gold", "?zone=z1"):
        discovered = rest.get(f"/api/v1/registry/discover/{service}{slash}{query}").json()
        assert [i["instance_id"] for i in discovered["instances"]] == [instance["instance_id"]], query
        assert discovered["stale"] is False
    assert rest.get(f"/api/v1/registry/discover/{service}?zone=z2").json()["instances"] == []
    identity = {"service_name": service, "instance_id": instance["instance_id"]}
    beat = rest.post(f"/api/v1/registry/heartbeat{slash}", json=identity)
    assert beat.status_code == 200, beat.text
    assert beat.json()["last_heartbeat_at"] >= instance["last_heartbeat_at"]
    for strategy in ("", "random", "weighted", "least_recently_used"):
        url = rest.get(f"/api/v1/registry/services/{service}/url{slash}", params={"strategy": strategy}).json()
        assert (url["url"], url["instance_id"]) == (body["service_url"], instance["instance_id"])
    hashed = rest.get(
        f"/api/v1/registry/services/{service}/url", params={"strategy": "consistent_hash", "hash_key": "u"}
    )
    assert hashed.json()["strategy"] == "consistent_hash"
    services = rest.get(f"/api/v1/registry/services{slash}", params={"page_size": 1000}).json()["services"]
    assert {"service_name": service, "instances": 1, "healthy": 1} in services
    assert len(rest.get(f"/api/v1/registry/services/{service}{slash}").json()["instances"]) == 1
    assert rest.post(f"/api/v1/registry/deregister{slash}", json=identity).status_code == 200
    assert rest.get(f"/api/v1/registry/discover/{service}").json()["instances"] == []
    assert rest.get(f"/api/v1/registry/services/{service}").status_code == 404
    assert rest.post("/api/v1/registry/heartbeat", json=identity).status_code == 404


def test_check_on_demand_returns_a_result_for_each_instance(
    rest: httpx.Client, environment: str, target: HttpTarget
) -> None:
    service = f"checked-{environment}"
    for name, path in (("good", "/ok"), ("bad", "/broken")):
        body = {"service_name": service, "instance_id": name, "service_url": target.url,
                "health_check_url": f"{target.url}{path}"}  # fmt: skip
        assert rest.post("/api/v1/registry/register", json=body).status_code == 201
    for slash in ("", "/"):
        answer = rest.post(f"/api/v1/registry/services/{service}/health{slash}", json={})
        assert answer.status_code == 200, answer.text
        assert {r["instance_id"]: r["passed"] for r in answer.json()["results"]} == {"good": True, "bad": False}


def test_service_watch_sends_registrations(rest: httpx.Client, environment: str) -> None:
    service = f"watched-{environment}"
    body = {"service_name": service, "instance_id": "one", "service_url": "http://a:1"}
    rest.post("/api/v1/registry/register", json=body)
    with rest.stream("GET", f"/api/v1/registry/services/{service}:watch") as stream:
        lines = (json.loads(line) for line in stream.iter_lines() if line.strip())
        assert [i["instance_id"] for i in next(lines)["snapshot"]["instances"]] == ["one"]
        assert "synced" in next(lines)
        rest.post("/api/v1/registry/deregister", json={"service_name": service, "instance_id": "one"})
        change = next(lines)["change"]
        assert (change["type"], change["instance"]["instance_id"]) == ("DELETE", "one")


@pytest.mark.parametrize("path", ["/health", "/ready", "/live", "/health/", "/ready/", "/live/"])
def test_health_names_each_component(rest: httpx.Client, path: str) -> None:
    answer = rest.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "up"
    if not path.startswith("/live"):
        assert {"storage", "bus", "registry"} <= {component["name"] for component in answer.json()["components"]}


def test_concurrent_requests_are_all_answered(service: object, rest: httpx.Client, environment: str) -> None:
    async def run() -> list[int]:
        async with httpx.AsyncClient(base_url=rest.base_url, timeout=30) as client:
            posts = (
                client.post("/api/v1/config", json={"key": f"k{n}", "value": n, "environment": environment})
                for n in range(200)
            )
            return [answer.status_code for answer in await asyncio.gather(*posts)]

    assert set(asyncio.run(run())) == {201}
    page = rest.get("/api/v1/config", params={"environment": environment, "page_size": 1000}).json()
    assert len(page["configs"]) == 200
