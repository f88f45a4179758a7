"""A change as the event that other systems get. Its schema: bus/config-updates.schema.json."""

from datetime import UTC
from typing import Any

from configsvc.domain.records import Change, Kind


def event_key(change: Change) -> str:
    """What orders events: those of one key stay in order."""
    return f"{change.ref.environment}/{change.ref.service}/{change.ref.key}"


def event_of(change: Change) -> dict[str, Any]:
    """The event. `value` is absent for a removal."""
    event: dict[str, Any] = {
        "revision": change.revision,
        "ordinal": change.ordinal,
        "kind": change.ref.kind.value,
        "action": change.action.value,
        "environment": change.ref.environment,
        "service": change.ref.service,
        "key": change.ref.key,
        "version": change.version,
        "actor": change.actor,
        "reason": change.reason,
        "at": change.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    if change.after is not None:
        event["value"] = change.after["value"] if change.ref.kind is Kind.CONFIG else change.after
    return event
