"""Heartbeats in the embedded database."""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from configsvc.domain.instances import Incarnation
from configsvc.storage.port import Heartbeat

# A later incarnation replaces the row; the same incarnation only raises its values.
_RECORD = """
INSERT INTO lives VALUES (?, ?, ?, ?, -1)
ON CONFLICT (service, instance_id) DO UPDATE SET
    seen_at = iif(excluded.incarnation > incarnation, excluded.seen_at, max(seen_at, excluded.seen_at)),
    granted_at = iif(excluded.incarnation > incarnation, -1, granted_at),
    incarnation = excluded.incarnation
WHERE excluded.incarnation >= incarnation
"""
_GRANT = """
INSERT INTO lives VALUES (?, ?, ?, ?, ?)
ON CONFLICT (service, instance_id) DO UPDATE SET
    seen_at = iif(excluded.incarnation > incarnation, excluded.seen_at, seen_at),
    granted_at = excluded.granted_at,
    incarnation = excluded.incarnation
WHERE excluded.incarnation > incarnation OR (excluded.incarnation = incarnation AND granted_at < seen_at)
"""
_SELECT = """
SELECT json_extract(value, '$[3]'), seen_at, granted_at FROM json_each(?) CROSS JOIN lives
WHERE service = json_extract(value, '$[0]') AND instance_id = json_extract(value, '$[1]')
    AND incarnation = json_extract(value, '$[2]')
"""


class SqliteHeartbeats:
    """Each call is one transaction, in the writer's thread.

    These transactions are not flushed to the disk. They survive `kill -9`. A power cut loses the last seconds of the lease
    clock, which only makes leases longer.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def advance_lease_clock(self, clock_seconds: float) -> float:
        with self._transaction():
            self._connection.execute("UPDATE listening SET heard_seconds = max(heard_seconds, ?)", (clock_seconds,))
            ((highest,),) = self._connection.execute("SELECT heard_seconds FROM listening").fetchall()
        return float(highest)

    def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        with self._transaction():
            self._connection.executemany(_RECORD, [(i.ref.service, i.ref.key, i.number, at) for i, at in seen.items()])

    def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        with self._transaction():
            self._connection.executemany(
                _GRANT, [(i.ref.service, i.ref.key, i.number, clock_seconds, clock_seconds) for i in incarnations]
            )

    def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        ordered = list(incarnations)
        named = json.dumps([(i.ref.service, i.ref.key, i.number, place) for place, i in enumerate(ordered)])
        found = self._connection.execute(_SELECT, (named,)).fetchall()
        return {ordered[place]: Heartbeat(seen_at, granted_at) for place, seen_at, granted_at in found}

    def forget_heartbeats(self, before: float) -> None:
        with self._transaction():
            self._connection.execute("DELETE FROM lives WHERE max(seen_at, granted_at) < ?", (before,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._connection.execute("PRAGMA synchronous = FULL")
