"""What a caller says in metadata, without a server."""

import pytest
from configsvc_client.v1 import config_pb2

from configsvc.clock import SystemClock
from configsvc.rpc.requests import request_metadata
from tests.rpc.requests.incoming import call


def test_last_text_value_of_a_name_counts_and_bytes_are_ignored() -> None:
    assert request_metadata.as_dict(call(("a", "1"), ("a", "2"), ("b-bin", b"\0"))) == {"a": "2"}
    assert request_metadata.as_dict(call()) == {}


def test_text_metadata_is_that_of_the_call_that_is_asked_whichever_was_asked_before() -> None:
    first, second = call(("a", "1")), call(("a", "2"))
    for _ in range(2):
        assert request_metadata.as_dict(first) == {"a": "1"}
        assert request_metadata.as_dict(second) == {"a": "2"}


def test_all_values_of_a_name_are_in_order() -> None:
    assert request_metadata.values(call(("a", "1"), ("b", "2"), ("a", b"3")), "a") == ["1", b"3"]


@pytest.mark.parametrize(("metadata", "actor"), [([("x-actor", "ann")], "ann"), ([("x-actor", "")], "anonymous")])
def test_author_is_the_actor_with_the_requests_reason_and_id(metadata: list[tuple[str, str]], actor: str) -> None:
    request = config_pb2.DeleteConfigRequest(reason="cleanup", request_id="r")
    author = request_metadata.author(call(*metadata), request, SystemClock())
    assert (author.actor, author.reason, author.request_id) == (actor, "cleanup", "r")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        (['"1-a"'], True),
        (["1-a"], True),
        (['W/"1-a"'], True),
        (['"2-b", "1-a"'], True),
        (['"2-b"', '"1-a"'], True),
        (["*"], True),
        (['"2-b"'], False),
        (["", " , "], False),
    ],
)
def test_if_none_match_with_the_current_etag_is_not_modified(headers: list[str], expected: bool) -> None:
    context = call(*(("if-none-match", header) for header in headers))
    assert request_metadata.is_not_modified(context, "1-a") is expected


def test_history_of_the_request_counts_before_the_one_of_the_metadata() -> None:
    context = call(("x-history", " of-metadata "))
    assert request_metadata.expected_history(context, config_pb2.WatchConfigsRequest()) == "of-metadata"
    assert request_metadata.expected_history(context, config_pb2.WatchConfigsRequest(history="own")) == "own"
    assert request_metadata.expected_history(call(), config_pb2.WatchConfigsRequest()) == ""


def test_request_id_is_the_callers_if_metadata_can_carry_it() -> None:
    assert request_metadata.request_id({"x-request-id": "mine"}) == "mine"
    assert request_metadata.request_id({"x-request-id": "x" * 200}) == "x" * 128
    made = {request_metadata.request_id(metadata) for metadata in ({}, {"x-request-id": "a b"}, {"x-request-id": ""})}
    assert len(made) == 3
    assert all(len(request_id) == 32 for request_id in made)


def test_only_the_gateways_mark_makes_a_call_rest() -> None:
    assert request_metadata.is_rest({"x-configsvc-rest": "1"})
    assert not request_metadata.is_rest({"x-configsvc-rest": "0"})
    assert not request_metadata.is_rest({})
