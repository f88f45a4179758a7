"""Heartbeats in the embedded database. See `port.Heartbeats` for the law."""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from configsvc.domain.instances import Incarnation
from configsvc.storage.port import Heartbeat

# As for `lives` in general: what is of a later incarnation replaces, what is of the same one only adds.
_NOTE = """
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
_SIGNS = """
SELECT json_extract(value, '$[3]'), seen_at, granted_at FROM json_each(?) CROSS JOIN lives
WHERE service = json_extract(value, '$[0]') AND instance_id = json_extract(value, '$[1]')
    AND incarnation = json_extract(value, '$[2]')
"""


class SqliteHeartbeats:
    """All of it runs in the writer's thread, each call one transaction.

    These transactions are not flushed to the disk: they survive `kill -9`, and after a power cut the last seconds of
    listening, which are lost with them, only make leases longer.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def advance_lease_clock(self, clock_seconds: float) -> float:
        """See the port."""
        with self._transaction():
            self._connection.execute("UPDATE listening SET heard_seconds = max(heard_seconds, ?)", (clock_seconds,))
            ((highest,),) = self._connection.execute("SELECT heard_seconds FROM listening").fetchall()
        return float(highest)

    def record_heartbeats(self, seen: Mapping[Incarnation, float]) -> None:
        """See the port."""
        with self._transaction():
            self._connection.executemany(_NOTE, [(i.ref.service, i.ref.key, i.number, at) for i, at in seen.items()])

    def grant_leases(self, incarnations: Collection[Incarnation], clock_seconds: float) -> None:
        """See the port."""
        with self._transaction():
            self._connection.executemany(
                _GRANT, [(i.ref.service, i.ref.key, i.number, clock_seconds, clock_seconds) for i in incarnations]
            )

    def heartbeats(self, incarnations: Collection[Incarnation]) -> Mapping[Incarnation, Heartbeat]:
        """See the port."""
        asked = list(incarnations)
        named = json.dumps([(i.ref.service, i.ref.key, i.number, place) for place, i in enumerate(asked)])
        found = self._connection.execute(_SIGNS, (named,)).fetchall()
        return {asked[place]: Heartbeat(seen_at, granted_at) for place, seen_at, granted_at in found}

    def forget_heartbeats(self, before: float) -> None:
        """See the port."""
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
