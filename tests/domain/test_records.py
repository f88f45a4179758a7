"""Records: as JSON, and as the two sides of a change."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from configsvc.domain.configs import Config
from configsvc.domain.record_json import record_json, record_of
from configsvc.domain.records import Action, Change, Kind, Record, Ref, etag_of

AT = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
BODY = {"value": {"a": [1, None]}, "description": "why"}
RECORD = Record(
    Ref(Kind.CONFIG, "production", "billing", "limits/a"), 7, 300, BODY, AT, AT + timedelta(days=1), "ann", "h1"
)
CHANGE = Change(
    revision=301,
    ordinal=2,
    ref=RECORD.ref,
    action=Action.UPDATE,
    version=8,
    before=BODY,
    after={"value": 2, "description": ""},
    before_revision=300,
    created_at=AT,
    actor="bob",
    reason="",
    request_id="",
    at=AT + timedelta(days=2),
    history="h1",
)


def test_record_comes_back_from_its_json() -> None:
    assert record_of(json.loads(json.dumps(record_json(RECORD)))) == RECORD


def test_change_tells_the_records_before_and_after_it() -> None:
    after = Record(RECORD.ref, 8, 301, CHANGE.after or {}, AT, CHANGE.at, "bob", "h1")
    assert (CHANGE.record, CHANGE.written) == (after, after)
    previous = CHANGE.previous
    assert previous is not None
    assert (previous.ref, previous.version, previous.revision, previous.body) == (RECORD.ref, 7, 300, BODY)
    assert (previous.etag, previous.created_at) == (RECORD.etag, AT)


def test_create_has_no_previous_record_and_a_removal_none_after_it() -> None:
    assert replace(CHANGE, action=Action.CREATE, before=None).previous is None
    assert replace(CHANGE, action=Action.DELETE, after=None).record is None


def test_etag_tells_versions_revisions_and_histories_apart() -> None:
    etags = {etag_of(1, 2, "h"), etag_of(2, 2, "h"), etag_of(1, 3, "h"), etag_of(1, 2, "i")}
    assert len(etags) == 4


def test_row_without_a_member_is_read_with_its_default() -> None:
    assert Config.of({"value": 1}) == Config(1, "")
    assert Config.of({}) == Config(None, "")
    assert Config.of(Config([1], "d").body) == Config([1], "d")


def test_text_of_a_ref_is_that_of_all_releases() -> None:
    # The store keeps it as the fingerprint of a deregistration, for a retry that may come to another release.
    assert (
        repr(RECORD.ref)
        == "Ref(kind=<Kind.CONFIG: 'config'>, environment='production', service='billing', key='limits/a')"
    )
