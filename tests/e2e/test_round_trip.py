"""A value written over REST is the same in every REST read."""

import json
from itertools import count
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from tests.rpc import strategies

NUMBERS = count(1)


def same(received: Any, sent: Any) -> bool:
    """Whether two values are equal as JSON: 1.0 equals 1, and -0.0 equals 0.0."""
    return bool(received == sent) and json.dumps(received).count("true") == json.dumps(sent).count("true")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=strategies.JSON | strategies.DEEP)
def test_value_is_the_same_in_every_read(rest: httpx.Client, environment: str, sent: Any) -> None:
    key, scope = f"k{next(NUMBERS)}", {"environment": environment}
    made = rest.post("/api/v1/config", json={"key": key, "value": sent, **scope})
    assert made.status_code == 201, made.text
    path = f"/api/v1/config/{key}"

    def got(where: str, **more: Any) -> Any:
        return rest.get(where, params={**scope, **more}).json()

    bulk = rest.post("/api/v1/config/bulk", json={"keys": [key], **scope}).json()
    received = {
        "create": made.json()["value"],
        "get": got(path)["value"],
        "list": got("/api/v1/config", keys=key)["configs"][0]["value"],
        "bulk": bulk["configs"][0]["value"],
        "effective": got("/api/v1/config:effective", service_name="s", prefix=key)["configs"][0]["value"],
        "history": got(f"{path}/history")["versions"][0]["after"],
        "changes": got("/api/v1/changes", key=key)["changes"][0]["after"]["value"],
        "diff": got(f"{path}:diff", from_version=1)["to"]["after"],
    }
    assert [way for way, one in received.items() if not same(one, sent)] == []


@pytest.mark.parametrize("value", [[], [1, 2], [[1], {"a": []}], {}, {"a": [None]}])
def test_object_flag_value_is_the_same_in_every_read(rest: httpx.Client, environment: str, value: Any) -> None:
    scope = {"environment": environment}
    flag = {"name": "f", "value_type": "object", "variants": [{"name": "v", "value": value}], "default_variant": "v"}
    made = rest.post("/api/v1/feature-flags", json={**flag, **scope})
    assert made.status_code == 201, made.text
    received = {
        "create": made.json(),
        "get": rest.get("/api/v1/feature-flags/f", params=scope).json(),
        "list": rest.get("/api/v1/feature-flags", params=scope).json()["flags"][0],
        "history": rest.get("/api/v1/feature-flags/f/history", params=scope).json()["versions"][0]["after"],
        "changes": rest.get("/api/v1/changes", params=scope).json()["changes"][0]["after"],
    }
    assert [way for way, one in received.items() if one["variants"] != flag["variants"]] == []
    asked = {"flag_name": "f", "user_id": "u", **scope}
    assert rest.post("/api/v1/feature-flags/evaluate", json=asked).json()["value"] == value
