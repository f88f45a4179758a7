"""How records and changes are stored in a table, the same in every adapter.

- A body is compact JSON text, and reads back unchanged: an integer of any size, a float as the shortest text that reads
  back to the same bits (`1.0`, `-0.0`, `1e+308`), members in their order. A binary JSON type would change some of these.
  NaN and the infinities are not JSON and are refused.
- A time is a whole number of microseconds since 1970 in UTC: exact, and ordered as a number.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from configsvc.domain.lineage import next_digest
from configsvc.domain.records import Action, Author, Change, JsonObject, Kind, Mutation, Record, Ref
from configsvc.domain.sizes import held_bytes
from configsvc.storage.sql.checksums import verified

# `json.dumps` with options makes an encoder for each call.
_encode_body = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# The order of `Row.values` and `row_of`, and of `change_values` and `change_of`. In a dialect with checksums, the checksum
# is the next column.
RECORD_COLUMNS = (
    "kind", "environment", "service", "key", "version", "revision", "body", "created_at", "updated_at", "updated_by"
)  # fmt: skip
CHANGE_COLUMNS = (
    "revision", "ordinal", "kind", "environment", "service", "key", "action", "version", "before", "after",
    "before_revision", "created_at", "actor", "reason", "request_id", "at", "digest",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `records`. A row without a body stands for a removed record, so that its versions go on.

    `text` is the stored form of the body, kept so that a body is not encoded twice.
    """

    ref: Ref
    version: int
    revision: int
    text: str | None
    body: JsonObject | None
    created_at: datetime
    updated_at: datetime
    updated_by: str

    def record_in(self, history: str) -> Record | None:
        """The live record, under the history of the log that was read; None if it was removed."""
        if self.body is None:
            return None
        return Record(
            self.ref,
            self.version,
            self.revision,
            self.body,
            self.created_at,
            self.updated_at,
            self.updated_by,
            history,
            held_bytes(self.text),
        )

    @property
    def values(self) -> tuple[Any, ...]:
        """In the order of `RECORD_COLUMNS`."""
        return (
            *ref_values(self.ref),
            self.version,
            self.revision,
            self.text,
            microseconds(self.created_at),
            microseconds(self.updated_at),
            self.updated_by,
        )


def json_text(body: JsonObject) -> str:
    """The stored form of a body.

    Raises:
        ValueError: it holds a value that JSON does not have.
    """
    return _encode_body(body)


def required_keys(body: JsonObject) -> list[str]:
    """The prerequisites in a body, as the database finds them (table `requirements`): any JSON may be stored."""
    listed = body.get("prerequisites")
    if not isinstance(listed, list):
        return []
    names = [one.get("flag_name") for one in listed if isinstance(one, dict)]
    return [name for name in names if isinstance(name, str)]


def json_text_of(values: Sequence[Any]) -> str:
    """A list of texts, or of such lists, as the parameter of a statement."""
    return json.dumps(values, ensure_ascii=False)


def json_object(text: str) -> JsonObject:
    """The body that `json_text` stored."""
    body: JsonObject = json.loads(text)
    return body


def microseconds(time: datetime) -> int:
    """The stored form of an aware time."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(value: int) -> datetime:
    """The time that `microseconds` stored."""
    return _EPOCH + timedelta(microseconds=value)


def ref_values(ref: Ref) -> tuple[str, str, str, str]:
    """In the order of the first `RECORD_COLUMNS`."""
    return (ref.kind.value, ref.environment, ref.service, ref.key)


def verified_record(values: Sequence[Any]) -> Sequence[Any]:
    """The values of `RECORD_COLUMNS`, without a checksum. Raises `DataLoss` if there is one that does not match."""
    if len(values) == len(RECORD_COLUMNS):
        return values
    return verified(values, "records", "/".join(map(str, values[:4])))


def verified_change(values: Sequence[Any]) -> Sequence[Any]:
    """The values of `CHANGE_COLUMNS`, without a checksum. Raises `DataLoss` if there is one that does not match."""
    if len(values) == len(CHANGE_COLUMNS):
        return values
    return verified(values, "changes", f"revision {values[0]}, {'/'.join(map(str, values[2:6]))}")


def row_of(values: Sequence[Any]) -> Row:
    """The inverse of `Row.values`. Raises `DataLoss` if the row has a checksum that does not match."""
    kind, environment, service, key, version, revision, text, created_at, updated_at, updated_by = verified_record(
        values
    )
    return Row(
        Ref(Kind(kind), environment, service, key),
        version,
        revision,
        text,
        None if text is None else json_object(text),
        time_of(created_at),
        time_of(updated_at),
        updated_by,
    )


def change_values(change: Change, before: str | None, after: str | None) -> tuple[Any, ...]:
    """In the order of `CHANGE_COLUMNS`; `before` and `after` are the stored forms of the bodies."""
    return (
        change.revision,
        change.ordinal,
        *ref_values(change.ref),
        change.action.value,
        change.version,
        before,
        after,
        change.before_revision,
        microseconds(change.created_at),
        change.actor,
        change.reason,
        change.request_id,
        microseconds(change.at),
        change.digest or None,
    )


def change_digest(before: str, place: tuple[int, int], mutation: Mutation, after: Row, author: Author) -> str:
    """The digest of the log up to and including a change. `before` is the digest up to the previous change."""
    attribution = (author.actor, author.reason, author.request_id, microseconds(author.at))
    return next_digest(
        before, (*place, *ref_values(mutation.ref), mutation.action.value, after.version, *attribution), after.text
    )


def change_of(values: Sequence[Any], history: str) -> Change:
    """The inverse of `change_values`, under the history of the log that was read.

    Raises `DataLoss` if the row has a checksum that does not match.
    """
    (
        revision, ordinal, kind, environment, service, key, action, version, before, after,
        before_revision, created_at, actor, reason, request_id, at, digest,
    ) = verified_change(values)  # fmt: skip
    return Change(
        revision=revision,
        ordinal=ordinal,
        ref=Ref(Kind(kind), environment, service, key),
        action=Action(action),
        version=version,
        before=None if before is None else json_object(before),
        after=None if after is None else json_object(after),
        before_revision=before_revision,
        created_at=time_of(created_at),
        actor=actor,
        reason=reason,
        request_id=request_id,
        at=time_of(at),
        digest=digest or "",
        history=history,
        before_bytes=held_bytes(before),
        after_bytes=held_bytes(after),
    )
