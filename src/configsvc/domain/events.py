"""A change as the event that other systems get. Its schema: bus/config-updates.schema.json.

An event that the broker does not take is published with less in it; `Form` has the order. So the size of one event
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


class Form(StrEnum):
    """How much of an event is published, most first."""

    WHOLE = "whole"
    WITHOUT_VALUE = "without its value"
    BARE = "without its value, reason and actor"
    # Nothing: not even the bare event was taken.
    SKIPPED = "not at all"


class Refusal(StrEnum):
    """Why an event is published with less in it: what the event's `…_omitted` members say."""

    TOO_LARGE = "too_large"
    # By a rule of the broker other than its size limit.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Omission:
    """A refusal of the whole event. `event_bytes`: what it has; `limit_bytes`: what the topic takes; 0: not known."""

    why: Refusal
    event_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a change's event, for good. `omission` is there if the form is not the whole event."""

    change: Change
    form: Form
    event_bytes: int
    omission: Omission | None = None

    @property
    def loss(self) -> "Loss | None":
        """What consumers have not got; None if they got all."""
        if self.omission is None:
            return None
        return Loss(self.change.revision, self.change.ref, self.form, self.omission)


@dataclass(frozen=True, slots=True)
class Loss:
    """An event that was published with less in it, or not at all."""

    revision: int
    ref: Ref
    form: Form
    omission: Omission

    def __str__(self) -> str:
        where = "/".join(filter(None, (self.ref.environment, self.ref.service, self.ref.key)))
        limit = (
            f"the topic takes {self.omission.limit_bytes}" if self.omission.limit_bytes else "its limit is not known"
        )
        size = f"it has {self.omission.event_bytes} bytes, {limit}"
        why = size if self.omission.why is Refusal.TOO_LARGE else "the broker refuses it"
        return f"revision {self.revision} ({self.ref.kind} {where}) was published {self.form}: {why}"

    def to_json(self) -> str:
        """For the store."""
        ref, omission = self.ref, self.omission
        return json.dumps(
            {
                "revision": self.revision,
                "ref": [ref.kind.value, ref.environment, ref.service, ref.key],
                "form": self.form.name,
                "why": omission.why.name,
                "event_bytes": omission.event_bytes,
                "limit_bytes": omission.limit_bytes,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Loss":
        """What `to_json` wrote."""
        source = json.loads(text)
        kind, environment, service, key = source["ref"]
        omission = Omission(Refusal[source["why"]], source["event_bytes"], source["limit_bytes"])
        return cls(source["revision"], Ref(Kind(kind), environment, service, key), Form[source["form"]], omission)


def event_key(change: Change, *, with_kind: bool = True) -> str:
    """What orders events, and what a compacted topic keeps the last of: those of one key stay in order.

    No part but the last can have a slash, so that two resources never share a key. Without the kind (schema version 1)
    a configuration that all services share and a flag of the same name do.
    """
    ref = change.ref
    plain = f"{ref.environment}/{ref.service}/{ref.key}"
    return f"{ref.kind.value}/{plain}" if with_kind else plain


def forms_of(change: Change) -> Sequence[Form]:
    """The forms that an event can have, in the order in which they are tried."""
    return tuple(form for form in Form if change.after is not None or form is not Form.WITHOUT_VALUE)


def event_of(change: Change, form: Form = Form.WHOLE, omission: Omission | None = None) -> dict[str, Any]:
    """The event. `value` is absent for a removal, and if it was omitted: `value_omitted` says so."""
    is_bare = form is Form.BARE
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
    if omission is None:
        if change.after is not None:
            event["value"] = change.after["value"] if change.ref.kind is Kind.CONFIG else change.after
        return event
    if change.after is not None:
        event["value_omitted"] = omission.why.value
    if is_bare:
        event["texts_omitted"] = omission.why.value
    event["event_bytes"] = omission.event_bytes
    if omission.limit_bytes:
        event["limit_bytes"] = omission.limit_bytes
    return event
