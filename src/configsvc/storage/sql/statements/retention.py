"""Statements for compaction."""

from datetime import timedelta

from configsvc.storage.port import RetentionPolicy
from configsvc.storage.sql.rows import microseconds
from configsvc.storage.sql.statements.dialect import Statement
from configsvc.storage.sql.statements.tables import Tables


class RetentionStatements(Tables):
    """Finds what to compact."""

    def compaction(self, policy: RetentionPolicy, max_changes: int) -> Statement:
        """The revision up to which to delete next: one row, or none if there is nothing to delete.

        That is the last revision that the policy does not keep. But so that one transaction stays short, it is at most
        the revision of the `max_changes`-th oldest change.
        """
        # The oldest change that stays is the policy.changes-th newest; with 0 nothing stays.
        by_number = (
            f"coalesce((SELECT revision - 1 FROM {self._changes} ORDER BY revision DESC, ordinal DESC"
            " LIMIT 1 OFFSET ?), 0)"
            if policy.changes > 0
            else f"(SELECT head + ? FROM {self._counter})"
        )
        parameters = [policy.changes - 1 if policy.changes > 0 else 0]
        by_age = "0"
        if policy.since is not None:
            by_age = (
                f"coalesce((SELECT revision - 1 FROM {self._changes} WHERE at >= ? ORDER BY revision, ordinal LIMIT 1),"
                f" (SELECT head FROM {self._counter}))"
            )
            parameters.append(microseconds(policy.since))
        step = f"(SELECT revision FROM {self._changes} ORDER BY revision, ordinal LIMIT 1 OFFSET ?)"
        bound = f"(SELECT published FROM {self._outbox})" if policy.unpublished else "9223372036854775807"
        return Statement(
            "SELECT CASE WHEN s.step < u.until THEN s.step ELSE u.until END"
            " FROM (SELECT CASE WHEN w.wanted < w.bound THEN w.wanted ELSE w.bound END AS until"
            " FROM (SELECT CASE WHEN k.by_age > k.by_number THEN k.by_age ELSE k.by_number END AS wanted, k.bound"
            f" FROM (SELECT {by_number} AS by_number, {by_age} AS by_age, {bound} AS bound) AS k) AS w) AS u,"
            f" (SELECT {step} AS step) AS s WHERE u.until > (SELECT compacted FROM {self._counter})",
            (*parameters, max_changes - 1),
        )

    def quiet_periods(self, longer_than: timedelta) -> Statement:
        """(a change's time, the next one's by time) if they are further apart; and (the newest time, None)."""
        return Statement(
            f"SELECT t.earlier, t.at FROM (SELECT at, lag(at) OVER (ORDER BY at) AS earlier FROM {self._changes}) AS t"
            f" WHERE t.at - t.earlier > ? UNION ALL SELECT max(at), NULL FROM {self._changes}",
            (longer_than // timedelta(microseconds=1),),
        )
