"""Updates write the named fields and keep all others (AIP-134), by REST, mask and presence, through a real Envoy."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from random import Random
from typing import Any

import grpc
import httpx
import pytest
from configsvc_client.v1 import flag_pb2, flag_pb2_grpc
from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.conftest import Running

CONFIG = "/api/v1/config"
FLAGS = "/api/v1/feature-flags"

RULE = {"name": "r", "conditions": [{"attribute": "a", "operator": "present", "values": [], "negate": True}],
        "variant": "on", "split": []}  # fmt: skip
HALVES = [{"variant": "on", "weight": 1}, {"variant": "off", "weight": 1}]
# Values of each field, its default first.
VALUES: dict[str, tuple[Any, ...]] = {
    "enabled": (False, True),
    "rollout_percentage": (0, 12.5, 100),
    "targeted_users": ([], ["a"], ["b", "a"]),
    "default_variant": ("", "on", "off"),
    "off_variant": ("", "on", "off"),
    "on_variant": ("", "on", "off"),
    "rollout_split": ([], HALVES),
    "bucket_by": ("", "country"),
    "rules": ([], [RULE], [RULE, RULE]),
    "description": ("", "text"),
    "tags": ([], ["x"], ["x", "y"]),
    "owner": ("", "ana"),
    "sticky": (False, True),
}
NUMBERS = count()

Write = Callable[[str, str, dict[str, Any]], None]


@pytest.fixture(scope="module")
def stub(service: Running) -> Iterator[flag_pb2_grpc.FlagServiceStub]:
    with grpc.insecure_channel(service.target) as channel:
        yield flag_pb2_grpc.FlagServiceStub(channel)


def by_rest(rest: httpx.Client, method: str) -> Write:
    def write(environment: str, name: str, changes: dict[str, Any]) -> None:
        answer = rest.request(method, f"{FLAGS}/{name}", json={"environment": environment, **changes})
        assert answer.status_code == 200, answer.text

    return write


def by_mask(stub: flag_pb2_grpc.FlagServiceStub) -> Write:
    def write(environment: str, name: str, changes: dict[str, Any]) -> None:
        request = ParseDict(changes, flag_pb2.UpdateFlagRequest(name=name, environment=environment))
        request.update_mask.paths.extend(changes)
        stub.UpdateFlag(request)

    return write


def by_presence(stub: flag_pb2_grpc.FlagServiceStub) -> Write:
    def write(environment: str, name: str, changes: dict[str, Any]) -> None:
        stub.UpdateFlag(ParseDict(changes, flag_pb2.UpdateFlagRequest(name=name, environment=environment)))

    return write


def shown(flag: dict[str, Any]) -> dict[str, Any]:
    return {name: flag[name] for name in VALUES}


def test_update_writes_named_fields_and_keeps_the_others(
    rest: httpx.Client, stub: flag_pb2_grpc.FlagServiceStub, environment: str
) -> None:
    ways = {
        "put": by_rest(rest, "PUT"),
        "patch": by_rest(rest, "PATCH"),
        "mask": by_mask(stub),
        "set": by_presence(stub),
    }

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def check(seed: int) -> None:
        random = Random(seed)
        old = {name: random.choice(values) for name, values in VALUES.items()}
        named = random.sample(list(VALUES), random.randint(1, 4))
        new = {name: random.choice(VALUES[name]) for name in named}
        for way, write in ways.items():
            # In gRPC without a mask, an empty list is an unset field.
            sent = {name: value for name, value in new.items() if way != "set" or value != []}
            if not sent:
                continue
            name = f"f{next(NUMBERS)}"
            rest.post(FLAGS, json={"name": name, "environment": environment, **old}).raise_for_status()
            write(environment, name, sent)
            stored = rest.get(f"{FLAGS}/{name}", params={"environment": environment}).json()
            assert shown(stored) == {**old, **sent}, way
            history = rest.get(f"{FLAGS}/{name}/history", params={"environment": environment}).json()
            changed = {name for name, value in sent.items() if value != old[name]}
            assert set(history["versions"][0]["changed_fields"]) == changed, way

    check()


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("field", VALUES)
def test_null_and_default_values_are_written(rest: httpx.Client, environment: str, method: str, field: str) -> None:
    full = {name: values[-1] for name, values in VALUES.items()}
    rest.post(FLAGS, json={"name": "f", "environment": environment, **full}).raise_for_status()
    for cleared in (None, VALUES[field][0]):
        answer = rest.request(method, f"{FLAGS}/f", json={"environment": environment, field: cleared})
        assert shown(answer.json()) == {**full, field: VALUES[field][0]}


def test_mask_writes_exactly_the_fields_that_it_names(
    rest: httpx.Client, stub: flag_pb2_grpc.FlagServiceStub, environment: str
) -> None:
    full = {name: values[-1] for name, values in VALUES.items()}
    rest.post(FLAGS, json={"name": "f", "environment": environment, **full}).raise_for_status()
    body = {"environment": environment, "update_mask": "targetedUsers,owner", "owner": "new", "enabled": False}
    assert shown(rest.put(f"{FLAGS}/f", json=body).json()) == {**full, "targeted_users": [], "owner": "new"}
    body = {"environment": environment, "update_mask": "*", "description": "alone"}
    default = {name: values[0] for name, values in VALUES.items()}
    assert shown(rest.put(f"{FLAGS}/f", json=body).json()) == {**default, "description": "alone"}
    for mask in ("", "nope", "rules.name", "*,owner", "etag", "name", "version"):
        refused = rest.put(f"{FLAGS}/f", json={"environment": environment, "update_mask": mask, "owner": "x"})
        assert (refused.status_code, "update_mask: " in refused.text) == (400, True), refused.text
    answer = stub.UpdateFlag(flag_pb2.UpdateFlagRequest(name="f", environment=environment, owner="y", enabled=False))
    assert list(answer.changed_fields) == ["owner"]


def test_concurrent_updates_of_different_fields_are_all_kept(rest: httpx.Client, environment: str) -> None:
    rest.post(FLAGS, json={"name": "f", "environment": environment}).raise_for_status()
    expected = {name: values[-1] for name, values in VALUES.items()}

    def write(name: str) -> int:
        return rest.patch(f"{FLAGS}/f", json={"environment": environment, name: expected[name]}).status_code

    with ThreadPoolExecutor(len(expected)) as pool:
        assert set(pool.map(write, expected)) == {200}
    stored = rest.get(f"{FLAGS}/f", params={"environment": environment}).json()
    assert shown(stored) == expected
    assert stored["version"] == 1 + len(expected)


def test_update_with_allow_missing_creates_the_flag(rest: httpx.Client, environment: str) -> None:
    body = {"environment": environment, "allow_missing": True, "rollout_percentage": 5}
    made = rest.patch(f"{FLAGS}/new", json=body)
    assert (made.status_code, made.json()["rollout_percentage"], made.json()["enabled"]) == (201, 5, False)


def test_update_without_fields_is_refused(rest: httpx.Client, environment: str) -> None:
    rest.post(FLAGS, json={"name": "f", "environment": environment}).raise_for_status()
    rest.post(CONFIG, json={"key": "k", "environment": environment, "value": 1}).raise_for_status()
    for path in (f"{FLAGS}/f", f"{CONFIG}/k"):
        for body in (
            {"environment": environment},
            {"environment": environment, "reason": "none", "allow_missing": True},
        ):
            assert "names no field" in rest.put(path, json=body).json()["message"]


def test_retry_with_other_fields_is_a_different_request(rest: httpx.Client, environment: str) -> None:
    rest.post(FLAGS, json={"name": "f", "environment": environment, "enabled": True}).raise_for_status()
    body = {"environment": environment, "request_id": environment, "rollout_percentage": 0}
    first = rest.put(f"{FLAGS}/f", json=body)
    assert rest.patch(f"{FLAGS}/f", json=body).json() == first.json()
    other = rest.put(f"{FLAGS}/f", json={**body, "enabled": False})
    assert other.json()["details"][0]["reason"] == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_config_keeps_the_value_or_description_that_is_not_named(
    rest: httpx.Client, environment: str, method: str
) -> None:
    path, scope = f"{CONFIG}/a/b", {"environment": environment}

    def write(**members: Any) -> tuple[Any, str]:
        answer = rest.request(method, path, json={**scope, **members})
        assert answer.status_code == 200, answer.text
        return answer.json()["value"], answer.json()["description"]

    rest.post(CONFIG, json={**scope, "key": "a/b", "value": {"a": 1}, "description": "d"}).raise_for_status()
    assert write(description="e") == ({"a": 1}, "e")
    assert write(value=None) == (None, "e")
    assert write(value=[], description=None) == ([], "")
    assert write(value=1, description="f", update_mask="description") == ([], "f")
    assert write(value=2, update_mask="*") == (2, "")
    for cleared in ({"update_mask": "value"}, {"update_mask": "*", "description": "x"}):
        assert "value: is required" in rest.request(method, path, json={**scope, **cleared}).json()["message"]
    history = rest.get(f"{path}/history", params=scope).json()["versions"]
    assert [v["changed_fields"] for v in history] == [
        ["value", "description"], ["description"], ["value", "description"], ["value"], ["description"], []
    ]  # fmt: skip
    missing = rest.request(method, f"{CONFIG}/new", json={**scope, "description": "x", "allow_missing": True})
    assert (missing.status_code, "value: is required" in missing.text) == (400, True)


def test_batch_keeps_fields_that_it_does_not_name(rest: httpx.Client, environment: str) -> None:
    rest.post(CONFIG, json={"environment": environment, "key": "k", "value": 7}).raise_for_status()
    body = {"environment": environment, "operations": [{"key": "k", "description": "d"}]}
    (written,) = rest.post(f"{CONFIG}:batchWrite", json=body).json()["configs"]
    assert (written["value"], written["description"]) == (7, "d")
    for operation in ({"key": "k"}, {"key": "k", "description": None}, {"key": "new", "description": "d"}):
        refused = rest.post(f"{CONFIG}:batchWrite", json={"environment": environment, "operations": [operation]})
        assert (refused.status_code, "operations[0]." in refused.json()["message"]) == (400, True)


def test_query_parameter_is_a_named_field_and_can_not_repeat_the_body(rest: httpx.Client, environment: str) -> None:
    rest.post(CONFIG, json={"environment": environment, "key": "k", "value": 7}).raise_for_status()
    path = f"{CONFIG}/k?environment={environment}"
    assert rest.put(f"{path}&description=q", json={"value": 8}).json()["description"] == "q"
    assert rest.put(f"{path}&description=r").json()["value"] == 8
    for query, body in (("&environment=x", {}), ("", {"environment": environment}), ("&description=a&description=b", {}),
                        ("&value.string_value=a", {}), ("&description=a", {"description": "a"})):  # fmt: skip
        refused = rest.put(path + query, json={"value": 9, **body})
        assert refused.status_code == 400, refused.text
        assert refused.json()["details"][1]["field_violations"]
    stored = rest.get(path).json()
    assert (stored["value"], stored["description"]) == (8, "r")


@pytest.mark.parametrize(("path", "field"), [(f"{CONFIG}/k", "value"), (f"{FLAGS}/f", "owner")])
def test_body_of_a_get_can_be_sent_back_guarded_by_its_etag(
    rest: httpx.Client, environment: str, path: str, field: str
) -> None:
    rest.post(CONFIG, json={"environment": environment, "key": "k", "value": 7}).raise_for_status()
    rest.post(FLAGS, json={"environment": environment, "name": "f"}).raise_for_status()
    read = rest.get(path, params={"environment": environment}).json()
    written = rest.put(path, json={**read, field: "new"})
    assert (written.status_code, written.json()[field], written.json()["version"]) == (200, "new", 2)
    assert rest.patch(path, json={**read, field: "lost"}).status_code == 409
    identity = "key" if "key" in read else "name"
    for wrong in ({identity: "other"}, {"no_such": 1}):
        answer = rest.put(path, json={**written.json(), **wrong})
        assert (answer.status_code, next(iter(wrong)) in answer.json()["message"]) == (400, True)


def test_body_of_an_instance_can_be_registered_again(rest: httpx.Client, environment: str) -> None:
    body = {"service_name": environment, "instance_id": "i", "service_url": "http://127.0.0.1:1", "zone": "a"}
    made = rest.post("/api/v1/registry/register", json=body).json()
    assert rest.post("/api/v1/registry/register", json={**made, "zone": "b"}).json()["zone"] == "b"
    assert rest.post("/api/v1/registry/register", json={**made, "zone": "c"}).status_code == 409
