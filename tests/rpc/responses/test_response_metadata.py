"""The metadata of an answer, without a server."""

from collections.abc import Iterator
from contextvars import copy_context

import pytest

from configsvc.rpc.context import is_metadata_value
from configsvc.rpc.responses import response_metadata
from configsvc.rpc.responses.response_metadata import LOCATION_CHARACTERS, RESPONSE_METADATA


@pytest.fixture
def metadata() -> Iterator[list[tuple[str, str]]]:
    """The metadata of the call that the test is in."""
    added: list[tuple[str, str]] = []
    token = RESPONSE_METADATA.set(added)
    yield added
    RESPONSE_METADATA.reset(token)


def test_resource_has_its_etag_and_nothing_that_is_not_given(metadata: list[tuple[str, str]]) -> None:
    response_metadata.add_resource_metadata("1-a")
    assert metadata == [("etag", '"1-a"')]


def test_created_resource_has_its_location_and_status(metadata: list[tuple[str, str]]) -> None:
    response_metadata.add_resource_metadata("1-a", status=201, location="/api/v1/config/k")
    assert metadata == [("etag", '"1-a"'), ("location", "/api/v1/config/k"), ("x-http-status", "201")]


def test_location_longer_than_peers_accept_is_left_out(metadata: list[tuple[str, str]]) -> None:
    response_metadata.add_resource_metadata("1-a", location="x" * LOCATION_CHARACTERS)
    response_metadata.add_resource_metadata("1-a", location="x" * (LOCATION_CHARACTERS + 1))
    assert [name for name, _ in metadata] == ["etag", "location", "etag"]


def test_calls_add_to_their_own_metadata_alone(metadata: list[tuple[str, str]]) -> None:
    other: list[tuple[str, str]] = []
    context = copy_context()
    context.run(RESPONSE_METADATA.set, other)
    context.run(response_metadata.add_metadata, ("a", "1"))
    response_metadata.add_metadata(("b", "2"))
    assert (other, metadata) == ([("a", "1")], [("b", "2")])


def test_rest_path_escapes_all_but_slashes_and_has_only_parameters_with_a_value() -> None:
    path = response_metadata.rest_path("config", "a/b c?", environment="e&f", service_name="")
    assert path == "/api/v1/config/a/b%20c%3F?environment=e%26f"
    assert response_metadata.rest_path("registry", "services", "s") == "/api/v1/registry/services/s"
    assert response_metadata.rest_path("config", "k", environment="", service_name="") == "/api/v1/config/k"


def test_status_message_has_no_percent_signs() -> None:
    pairs = (("location", "/a%20b"), ("x-revision", "7"))
    assert response_metadata.status_message(pairs) == "location=/a^20b x-revision=7"


@pytest.mark.parametrize(
    ("text", "fits"), [("a-B.9~!", True), ("", False), ("a b", False), ("é", False), ("a\n", False)]
)
def test_metadata_value_is_printable_ascii_without_spaces(text: str, fits: bool) -> None:
    assert is_metadata_value(text) is fits
