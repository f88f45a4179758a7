"""A change as the event that other systems get. Its schema: bus/config-updates.schema.json.

An event that the broker does not take is published with less in it; `EventForm` has the order. So the size of one event
never stops those behind it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from typing import Any

from configsvc.domain.records import Change, Kind, Ref

# Of the schema. It goes in a header: version 1 closed the event's object, so that one more member in each event would
# have broken the consumers that check it.
SCHEMA_VERSION = 2


class EventForm(StrEnum):
    """How much of an event is published, most first."""

    WHOLE = "whole"
    WITHOUT_VALUE = "without its value"
    BARE = "without its value, reason and actor"
    # Nothing: not even the bare event was taken.
    SKIPPED = "not at all"


class RefusalReason(StrEnum):
    """Why an event is published with less in it: what the event's `…_omitted` members say."""

    TOO_LARGE = "too_large"
    # By a rule of the broker other than its size limit.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of the whole event. `event_bytes`: what it has; `limit_bytes`: what the topic takes; 0: not known."""

    reason: RefusalReason
    event_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a change's event, for good. `refusal` is there if the form is not the whole event."""

    change: Change
    form: EventForm
    event_bytes: int
    refusal: Refusal | None = None

    @property
    def loss(self) -> "EventLoss | None":
        """What consumers have not got; None if they got all."""
        if self.refusal is None:
            return None
        return EventLoss(self.change.revision, self.change.ref, self.form, self.refusal)


@dataclass(frozen=True, slots=True)
class EventLoss:
    """An event that was published with less in it, or not at all."""

    revision: int
    ref: Ref
    form: EventForm
    refusal: Refusal

    def __str__(self) -> str:
        where = "/".join(filter(None, (self.ref.environment, self.ref.service, self.ref.key)))
        limit = f"the topic takes {self.refusal.limit_bytes}" if self.refusal.limit_bytes else "its limit is not known"
        size = f"it has {self.refusal.event_bytes} bytes, {limit}"
        why = size if self.refusal.reason is RefusalReason.TOO_LARGE else "the broker refuses it"
        return f"revision {self.revision} ({self.ref.kind} {where}) was published {self.form}: {why}"

    def to_json(self) -> str:
        """For the store."""
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
        """What `to_json` wrote."""
        source = json.loads(text)
        kind, environment, service, key = source["ref"]
        refusal = Refusal(RefusalReason[source["why"]], source["event_bytes"], source["limit_bytes"])
        return cls(source["revision"], Ref(Kind(kind), environment, service, key), EventForm[source["form"]], refusal)


def event_key(change: Change, *, with_kind: bool = True) -> str:
    """What orders events, and what a compacted topic keeps the last of: those of one key stay in order.

    No part but the last can have a slash, so that two resources never share a key. Without the kind (schema version 1)
    a configuration that all services share and a flag of the same name do.
    """
    ref = change.ref
    plain = f"{ref.environment}/{ref.service}/{ref.key}"
    return f"{ref.kind.value}/{plain}" if with_kind else plain


def forms_of(change: Change) -> Sequence[EventForm]:
    """The forms that an event can have, in the order in which they are tried."""
    return tuple(form for form in EventForm if change.after is not None or form is not EventForm.WITHOUT_VALUE)


def event_of(change: Change, form: EventForm = EventForm.WHOLE, refusal: Refusal | None = None) -> dict[str, Any]:
    """The event. `value` is absent for a removal, and if it was omitted: `value_omitted` says so."""
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
