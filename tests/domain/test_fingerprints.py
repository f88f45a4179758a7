"""Fingerprints of writes."""

from dataclasses import replace

from configsvc.domain.fingerprints import fingerprint
from tests.conformance.storage.writing import author


def test_fingerprint_is_that_of_the_content_whoever_retries_it() -> None:
    first, retry = author("request"), replace(author("request"), actor="bob", reason="again")
    assert fingerprint(first, "update", {"a": 1, "b": [2]}) == fingerprint(retry, "update", {"b": [2], "a": 1}) != ""
    assert fingerprint(first, "update", {"a": 1}) != fingerprint(first, "update", {"a": 2})


def test_request_without_an_id_has_none() -> None:
    assert fingerprint(author(), "update", {"a": 1}) == ""
