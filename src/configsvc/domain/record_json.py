"""A record as JSON, for shared caches. A replica reads what another one wrote, also if that one has another release."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from configsvc.domain.records import Kind, Record, Ref


def record_json(record: Record) -> dict[str, Any]:
    """The JSON of a whole record."""
    ref = record.ref
    return {
        "ref": [ref.kind.value, ref.environment, ref.service, ref.key],
        "version": record.version,
        "revision": record.revision,
        "body": record.body,
        "created_at": record.created_at.isoformat(),
        "updated_at": record.updated_at.isoformat(),
        "updated_by": record.updated_by,
        "history": record.history,
    }


def record_of(source: Mapping[str, Any]) -> Record:
    """The record that `record_json` wrote. Raises `KeyError`, `TypeError` or `ValueError` if the JSON is not one."""
    kind, environment, service, key = source["ref"]
    return Record(
        Ref(Kind(kind), environment, service, key),
        source["version"],
        source["revision"],
        source["body"],
        datetime.fromisoformat(source["created_at"]),
        datetime.fromisoformat(source["updated_at"]),
        source["updated_by"],
        source["history"],
    )
