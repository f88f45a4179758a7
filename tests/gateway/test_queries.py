"""Parameters of a query are checked as members of a body are: an error names one, and says what is allowed."""

import re
from collections.abc import Iterator

import httpx
import pytest
from google.protobuf.descriptor import Descriptor

from configsvc.gateway import routes
from configsvc.gateway.lua_tables import field_table
from tests.gateway.echo import echo

WRONG = {
    "int32": ["", "x", "1.5", "1e1", "0x1", " 1", "2147483648", "-2147483649", "\N{DIGIT ONE}\N{SUPERSCRIPT TWO}"],
    "int64": ["", "x", "1.5", "99999999999999999999"],
    "bool": ["", "1", "TRUE", "yes"],
    "time": ["", "yesterday", "2026-11-25", "2026-11-25T00:00:00", "1700000000"],
    "string": [],
}
RIGHT = {
    "int32": "7",
    "int64": "-9007199254740991",
    "bool": "false",
    "time": "2026-11-25T10:00:00.5+02:00",
    "string": "a b",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with echo(tmp_path_factory.mktemp("envoy")) as client:
        yield client


def filled(route: routes.Route, value: str) -> str:
    """A path of the route, with this value for all parameters."""
    return re.sub(r"\{[^}]*\}", value, route.template)


def reads() -> list[tuple[str, routes.Route, Descriptor]]:
    """Every method without a body."""
    return [
        (verb, route, method.input_type)
        for route in routes.routes()
        for verb, method in route.methods.items()
        if verb in ("GET", "DELETE")
    ]


def violation(answer: httpx.Response) -> tuple[str, str]:
    """The refused field, and the reason."""
    assert answer.status_code == 400, answer.text
    (field_violation,) = answer.json()["details"][1]["field_violations"]
    assert answer.json()["message"] == f"{field_violation['field']}: {field_violation['description']}"
    return field_violation["field"], field_violation["description"]


def kind_of(described: str) -> str:
    return described.partition('kind = "')[2].partition('"')[0]


@pytest.mark.parametrize(("method", "route", "message"), reads())
def test_every_parameter_of_every_read_is_checked_by_its_type(
    gateway: httpx.Client, method: str, route: routes.Route, message: Descriptor
) -> None:
    path = filled(route, "n")
    for field in message.fields:
        kind = kind_of(field_table(field))
        if field.name in route.parameters:
            for name in {field.name, field.json_name}:
                assert violation(gateway.request(method, path, params={name: "a"}))[0] == field.name
            continue
        for text in WRONG[kind]:
            name, why = violation(gateway.request(method, path, params={field.json_name: text}))
            assert name == field.name
            assert "TYPE_" not in why
            assert not text or text.isdigit() or text not in why
        answer = gateway.request(method, path, params={field.name: RIGHT[kind]})
        assert answer.status_code == 200, answer.text
        assert field.name in answer.text.split(",")
        if not field.is_repeated:
            twice = f"{path}?{field.name}=1&{field.json_name}=1"
            assert violation(gateway.request(method, twice))[0] == field.name or kind != "string"


@pytest.mark.parametrize(("method", "route", "message"), reads())
def test_unknown_parameters_and_invalid_utf8_are_refused(
    gateway: httpx.Client, method: str, route: routes.Route, message: Descriptor
) -> None:
    path = filled(route, "n")
    known = ", ".join(field.name for field in message.fields)
    assert violation(gateway.request(method, f"{path}?nope=1")) == ("nope", f"is unknown here; known are {known}")
    assert violation(gateway.request(method, f"{path}?a%ff=1")) == ("query", "must be UTF-8")
    for field in message.fields:
        if field.name not in route.parameters and kind_of(field_table(field)) == "string":
            for raw in ("%ff", "%ed%a0%80", "%c0%80"):
                assert violation(gateway.request(method, f"{path}?{field.name}={raw}")) == (field.name, "must be UTF-8")
    if route.parameters:
        # The error names one of them; which one is not specified.
        name, why = violation(gateway.request(method, filled(route, "a%ffb")))
        assert name in route.parameters
        assert why == "must be UTF-8"


def test_request_with_a_body_is_checked_although_its_target_was_read_before(gateway: httpx.Client) -> None:
    target = "/api/v1/config/checked/before"
    for _ in range(2):
        assert gateway.get(target, params={"environment": "e"}).text == "environment"
    answer = gateway.request("GET", target, params={"environment": "e"}, json={"no_such_member": 1})
    assert violation(answer)[0] == "no_such_member"
    answer = gateway.request("GET", target, params={"environment": "e"}, content=b"text")
    assert answer.status_code == 415


def test_no_target_loses_its_check_however_many_are_read(gateway: httpx.Client) -> None:
    # More than rest.lua keeps.
    for number in range(1_100):
        target = f"/api/v1/config/k{number}"
        assert gateway.get(target, params={"environment": "e"}).text == "environment"
        if number % 100 == 0:
            assert violation(gateway.get(target, params={"no_such_member": "1"}))[0] == "no_such_member"
            assert gateway.get(f"{target}/", params={"environment": "e", "min_revision": "1"}).status_code == 200
            assert gateway.put(target, params={"no_such_member": "1"}).status_code == 400


def test_head_is_checked_as_get_is(gateway: httpx.Client) -> None:
    target = "/api/v1/config/by-head"
    for _ in range(2):
        assert gateway.head(target, params={"environment": "e"}).status_code == 200
        assert gateway.head(target, params={"no_such_member": "1"}).status_code == 400
        assert gateway.get(target, params={"environment": "e"}).status_code == 200
