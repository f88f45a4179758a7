"""The statement that stores a group of planned writes: any number of rows of each table, with one array a column.

One statement, because each statement costs the server and this process some ten microseconds, and because a group whose
rows are known needs no other (`transaction.py`).
"""

from collections.abc import Sequence
from typing import Any

from configsvc.domain.lineage import Checkpoint
from configsvc.storage.postgres.connection import CHANNEL
from configsvc.storage.sql.group_state import PlannedWrite
from configsvc.storage.sql.rows import CHANGE_COLUMNS
from configsvc.storage.sql.statements import Statement

_NUMBERS = {"version", "ordinal", "revision", "before_revision", "created_at", "at", "is_last"}


def _arrays(columns: Sequence[str]) -> str:
    arrays = ", ".join(f"?::{'bigint' if column in _NUMBERS else 'text'}[]" for column in columns)
    return f"unnest({arrays}) AS u ({', '.join(columns)})"


# `moved` has a row if the log ends where the writes were planned. The other parts read from it, so they run after the
# counter is locked, or store nothing. A record's row is that of its last change.
_STORE = f"""
WITH moved AS (
    UPDATE configsvc.counter SET head = ?, digest = ? WHERE head = ? AND digest = ? AND history = ? RETURNING head
), made AS MATERIALIZED (
    SELECT u.* FROM moved CROSS JOIN {_arrays((*CHANGE_COLUMNS, "is_last"))}
), changed AS (
    INSERT INTO configsvc.changes ({", ".join(CHANGE_COLUMNS)}) SELECT {", ".join(CHANGE_COLUMNS)} FROM made
), recorded AS (
    INSERT INTO configsvc.records
        (kind, environment, service, key, version, revision, body, created_at, updated_at, updated_by)
    SELECT kind, environment, service, key, version, revision, after, created_at, at, actor FROM made WHERE is_last = 1
    ON CONFLICT (kind, environment, key, service) DO UPDATE SET
        version = excluded.version, revision = excluded.revision, body = excluded.body,
        created_at = excluded.created_at, updated_at = excluded.updated_at, updated_by = excluded.updated_by
), requested AS (
    INSERT INTO configsvc.requests (request_id, fingerprint, revision)
    SELECT u.* FROM moved CROSS JOIN {_arrays(("request_id", "fingerprint", "revision"))}
)
SELECT pg_notify('{CHANNEL}', head::text) FROM moved
"""


def store_statement(writes: Sequence[PlannedWrite], start: Checkpoint, end: Checkpoint) -> Statement:
    """Stores the writes and notifies `CHANNEL`, if the log ends at `start`. Has no row if it does not.

    `end`: where the log ends afterwards.
    """
    changes = [values for write in writes for values in write.changes]
    last = {values[2:6]: place for place, values in enumerate(changes)}
    columns = [*_columns(changes, len(CHANGE_COLUMNS)), [0] * len(changes)]
    for place in last.values():
        columns[-1][place] = 1
    requests = _columns([write.request for write in writes if write.request], 3)
    return Statement(
        _STORE, (end.revision, end.digest, start.revision, start.digest, start.history, *columns, *requests)
    )


def _columns(rows: Sequence[tuple[Any, ...]], number: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * number
