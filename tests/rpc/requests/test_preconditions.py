"""The preconditions of a call, without a server. `tests/domain` has the grammar of etags."""

import pytest
from configsvc_client.v1 import config_pb2

from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.errors import InvalidInput
from configsvc.rpc.requests import preconditions
from tests.rpc.requests.incoming import call

NO_ETAG, ETAG = config_pb2.DeleteConfigRequest(), config_pb2.DeleteConfigRequest(etag="1-a")


def test_call_without_etags_has_no_precondition() -> None:
    assert preconditions.from_call(call(), NO_ETAG) == NO_PRECONDITION


def test_etag_field_and_headers_are_the_precondition() -> None:
    assert preconditions.from_call(call(), ETAG) == Precondition(("1-a",))
    assert preconditions.from_call(call(("if-match", '"1-a"'), ("if-match", '"2-b"')), NO_ETAG) == Precondition(
        ("1-a", "2-b")
    )
    assert preconditions.from_call(call(("if-none-match", 'W/"1-a"')), NO_ETAG) == Precondition(None, ("1-a",))


@pytest.mark.parametrize("values", [['"2-b"'], [""], ['W/"1-a"'], ['"1-a"', b"\xff"]])
def test_if_match_that_contradicts_or_cannot_be_understood_is_refused(values: list[str | bytes]) -> None:
    with pytest.raises(InvalidInput):
        preconditions.from_call(call(*(("if-match", value) for value in values)), ETAG)


def test_empty_etag_field_is_refused_and_not_taken_as_none() -> None:
    with pytest.raises(InvalidInput) as raised:
        preconditions.from_operation(config_pb2.ConfigOperation(etag=""), "operations[3]")
    assert [violation.field for violation in raised.value.violations] == ["operations[3].etag"]


def test_create_refuses_if_match_and_allows_if_none_match() -> None:
    preconditions.check_create(call(("if-none-match", "*")))
    preconditions.check_create(call(("if-none-match", 'W/"1-a"')))
    for header in (("if-match", "*"), ("if-none-match", "")):
        with pytest.raises(InvalidInput):
            preconditions.check_create(call(header))


@pytest.mark.parametrize(("name", "title"), [("if-match", "If-Match"), ("if-none-match", "If-None-Match")])
def test_batch_refuses_both_headers(name: str, title: str) -> None:
    preconditions.refuse_headers(call(("x-actor", "ann")))
    with pytest.raises(InvalidInput) as raised:
        preconditions.refuse_headers(call((name, "*")))
    assert [violation.field for violation in raised.value.violations] == [title]
