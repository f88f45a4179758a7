"""What the service needs of a database. Adapters: `sqlite`, `postgres`. One conformance suite runs over both.

These laws hold for every adapter:

- Revisions are 1, 2, 3 … in commit order, without a gap within a history. A reader that has seen revision N never finds
  a new change at or below N later.
- The log has a history id. It keeps the id as long as the log continues what anyone has seen of it (domain/lineage.py).
  Everything that is read names it. If the log does not continue what this process has read or written, a write raises
  `Unavailable` with reason `LOG_DIVERGED` and has no effect.
- A write is atomic, and durable when `write` returns. If `write` raises `Unavailable`, the outcome is unknown; a
  `request_id` makes a retry safe. If it raises anything else, the write had no effect.
- Every read is one consistent view, at the revision that it names.
- Text is ordered by code point.
- If the database is unreachable, locked or full, a call raises `errors.Unavailable` from the driver's error.
"""

from configsvc.storage.port.changes import (
    EXAMINED_CHANGES,
    ChangeHistory,
    ChangePage,
    ChangeQuery,
    HistoryAdmin,
    Log,
    LogPage,
    ResumableLog,
    VersionRange,
)
from configsvc.storage.port.heartbeats import Heartbeat, Heartbeats
from configsvc.storage.port.outbox import Outbox, OutboxLease, OutboxStatus
from configsvc.storage.port.records import READ_BYTES, Reader, RecordPage, RecordQuery, Writer
from configsvc.storage.port.retention import Compactor, QuietPeriods, RetentionPolicy
from configsvc.storage.port.storage import Storage

__all__ = [
    "EXAMINED_CHANGES",
    "READ_BYTES",
    "ChangeHistory",
    "ChangePage",
    "ChangeQuery",
    "Compactor",
    "Heartbeat",
    "Heartbeats",
    "HistoryAdmin",
    "Log",
    "LogPage",
    "Outbox",
    "OutboxLease",
    "OutboxStatus",
    "QuietPeriods",
    "Reader",
    "RecordPage",
    "RecordQuery",
    "ResumableLog",
    "RetentionPolicy",
    "Storage",
    "VersionRange",
    "Writer",
]
