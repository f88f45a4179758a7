"""Statements for the log's state and its history id."""

from configsvc.domain.lineage import LogState
from configsvc.storage.sql.statements.dialect import Statement
from configsvc.storage.sql.statements.tables import Tables

_STATE = "head, compacted, history, since, digest"


class HistoryStatements(Tables):
    """Reads `counter` and `histories`, and changes the history."""

    def state(self) -> Statement:
        """(head, compacted, history, since, digest)"""
        return Statement(f"SELECT {_STATE} FROM {self._counter}")

    def state_and_digest(self, revision: int, lock: str = "") -> Statement:
        """(head, compacted, history, since, digest), and the digest at a revision; None if it is not known."""
        return Statement(f"SELECT {_STATE}, {self._digest_at()} FROM {self._counter}{lock}", (revision,))

    def first_history(self, history: str, reason: str) -> tuple[Statement, ...]:
        """Gives a history to a log that has none; changes nothing if it has one."""
        return (
            Statement(
                f"INSERT INTO {self._histories} SELECT ?, since, ?, {self._dialect.now} FROM {self._counter}"
                " WHERE history = ''",
                (history, reason),
            ),
            Statement(f"UPDATE {self._counter} SET history = ? WHERE history = ''", (history,)),
        )

    def change_history(self, before: LogState, after: LogState, reason: str) -> tuple[Statement, ...]:
        """Gives the log another history. If all changes were published, they still are at the new head."""
        return (
            Statement(
                f"INSERT INTO {self._histories} VALUES (?, ?, ?, {self._dialect.now})",
                (after.history, after.since, reason),
            ),
            Statement(f"UPDATE {self._outbox} SET published = ? WHERE published >= ?", (after.head, before.head)),
            Statement(
                f"UPDATE {self._counter} SET history = ?, since = ?, head = ?",
                (after.history, after.since, after.head),
            ),
        )

    def origin(self) -> Statement:
        """(history, since, reason, made_at) of the log's history."""
        return Statement(
            f"SELECT h.history, h.since, h.reason, h.made_at FROM {self._counter} AS c"
            f" JOIN {self._histories} AS h ON h.history = c.history"
        )
