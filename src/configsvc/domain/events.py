"""A change as the event that other systems get. Its schema is bus/config-updates.schema.json.

If the broker refuses an event, smaller forms of it are tried, in the order of `EventForm`. So an event that is too large
never stops the events behind it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from typing import Any

from configsvc.domain.records import Change, Kind, Ref

# The version of the schema. It is a header of the message and not a member of the event: version 1 allowed no further
# members, so a new one would have broken consumers that validate events.
SCHEMA_VERSION = 2


class EventForm(StrEnum):
    """How much of an event is published; the largest form first."""

    WHOLE = "whole"
    WITHOUT_VALUE = "without its value"
    BARE = "without its value, reason and actor"
    # Even the bare event was refused.
    SKIPPED = "not at all"


class RefusalReason(StrEnum):
    """Why the whole event was refused: the value of the event's `…_omitted` members."""

    TOO_LARGE = "too_large"
    # The broker has another rule than its size limit.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The refusal of a whole event of `event_bytes`. `limit_bytes`: the topic's limit, 0 if it is not known."""

    reason: RefusalReason
    event_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """The form in which a change's event was published, which is final. `refusal`: set if it is not the whole event."""

    change: Change
    form: EventForm
    event_bytes: int
    refusal: Refusal | None = None

    @property
    def loss(self) -> "EventLoss | None":
        """What consumers did not get; None if they got the whole event."""
        if self.refusal is None:
            return None
        return EventLoss(self.change.revision, self.change.ref, self.form, self.refusal)


@dataclass(frozen=True, slots=True)
class EventLoss:
    """An event that was published in a smaller form, or not at all."""

    revision: int
    ref: Ref
    form: EventForm
    refusal: Refusal

    def __str__(self) -> str:
        name = "/".join(filter(None, (self.ref.environment, self.ref.service, self.ref.key)))
        limit = f"the topic takes {self.refusal.limit_bytes}" if self.refusal.limit_bytes else "its limit is not known"
        size = f"it has {self.refusal.event_bytes} bytes, {limit}"
        why = size if self.refusal.reason is RefusalReason.TOO_LARGE else "the broker refuses it"
        return f"revision {self.revision} ({self.ref.kind} {name}) was published {self.form}: {why}"

    def to_json(self) -> str:
        """The text that the storage keeps."""
        ref, refusal = self.ref, self.refusal
        return json.dumps(
            {
                "revision": self.revision,
                "ref": [ref.kind.value, ref.environment, ref.service, ref.key],
                "form": self.form.name,
                "why": refusal.reason.name,
                "event_bytes": refusal.event_bytes,
                "limit_bytes": refusal.limit_bytes,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "EventLoss":
        """Parses what `to_json` wrote."""
        source = json.loads(text)
        kind, environment, service, key = source["ref"]
        refusal = Refusal(RefusalReason[source["why"]], source["event_bytes"], source["limit_bytes"])
        return cls(source["revision"], Ref(Kind(kind), environment, service, key), EventForm[source["form"]], refusal)


def event_key(change: Change, *, with_kind: bool = True) -> str:
    """The message key. Events with the same key stay in order, and a compacted topic keeps the last of them.

    Only the last part can contain a slash, so two resources never have the same key. Without the kind (schema version 1)
    a flag and a configuration of the same name that all services share have the same key.
    """
    ref = change.ref
    path = f"{ref.environment}/{ref.service}/{ref.key}"
    return f"{ref.kind.value}/{path}" if with_kind else path


def forms_of(change: Change) -> Sequence[EventForm]:
    """The possible forms of an event, in the order in which they are tried."""
    return tuple(form for form in EventForm if change.after is not None or form is not EventForm.WITHOUT_VALUE)


def event_of(change: Change, form: EventForm = EventForm.WHOLE, refusal: Refusal | None = None) -> dict[str, Any]:
    """The event. A removal has no `value`. If the value was omitted, `value_omitted` says why."""
    is_bare = form is EventForm.BARE
    event: dict[str, Any] = {
        "revision": change.revision,
        "ordinal": change.ordinal,
        "kind": change.ref.kind.value,
        "action": change.action.value,
        "environment": change.ref.environment,
        "service": change.ref.service,
        "key": change.ref.key,
        "version": change.version,
        "actor": "" if is_bare else change.actor,
        "reason": "" if is_bare else change.reason,
        "at": change.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    if refusal is None:
        if change.after is not None:
            event["value"] = change.after["value"] if change.ref.kind is Kind.CONFIG else change.after
        return event
    if change.after is not None:
        event["value_omitted"] = refusal.reason.value
    if is_bare:
        event["texts_omitted"] = refusal.reason.value
    event["event_bytes"] = refusal.event_bytes
    if refusal.limit_bytes:
        event["limit_bytes"] = refusal.limit_bytes
    return event
