"""Statements for compaction."""

from datetime import timedelta

from configsvc.storage.port import RetentionPolicy
from configsvc.storage.sql.compaction import CompactionTarget
from configsvc.storage.sql.rows import microseconds
from configsvc.storage.sql.statements.dialect import Statement
from configsvc.storage.sql.statements.tables import Tables


class RetentionStatements(Tables):
    """Finds what to compact."""

    def compaction_target(self, policy: RetentionPolicy) -> Statement:
        """(head, last revision that is deleted because of its number, because of its age, bound of both).

        It walks over the changes that stay by their number, and over those that go by their age. So it runs once for each
        compaction, and not under the lock.
        """
        # The oldest change that stays is the policy.changes-th newest; with 0 nothing stays.
        by_number = (
            f"coalesce((SELECT revision - 1 FROM {self._changes} ORDER BY revision DESC, ordinal DESC"
            " LIMIT 1 OFFSET ?), 0)"
            if policy.changes > 0
            else "c.head + ?"
        )
        parameters = [policy.changes - 1 if policy.changes > 0 else 0]
        by_age = "0"
        if policy.since is not None:
            by_age = (
                f"coalesce((SELECT revision - 1 FROM {self._changes} WHERE at >= ? ORDER BY revision, ordinal LIMIT 1),"
                " c.head)"
            )
            parameters.append(microseconds(policy.since))
        bound = f"(SELECT published FROM {self._outbox})" if policy.unpublished else "c.head"
        return Statement(
            f"SELECT c.head, {by_number}, {by_age}, {bound} FROM {self._counter} AS c",
            tuple(parameters),
        )

    def compaction_step(self, target: CompactionTarget, max_changes: int) -> Statement:
        """The revision up to which to delete next: one row, or none if there is nothing to delete.

        So that one transaction stays short, it is at most the revision of the `max_changes`-th oldest change. There is no
        row, either, if the log ends before the head of the target: it is no longer the log that the target was found in.
        """
        step = (
            f"SELECT s.revision FROM {self._changes} AS s WHERE s.revision > c.compacted AND s.revision <= ?"
            " ORDER BY s.revision, s.ordinal LIMIT 1 OFFSET ?"
        )
        return Statement(
            f"SELECT coalesce(({step}), ?) FROM {self._counter} AS c WHERE c.compacted < ? AND c.head >= ?",
            (target.until, max_changes - 1, target.until, target.until, target.head),
        )

    def quiet_periods(self, longer_than: timedelta) -> Statement:
        """(a change's time, the next one's by time) if they are further apart; and (the newest time, None).

        It jumps along the index of times. From a time it goes to the last one that is no quiet period later; if there is
        none, to the next one, over a quiet period. Two jumps advance by more than `longer_than`, however many changes are
        in between.
        """
        near = (
            f"SELECT n.at FROM {self._changes} AS n WHERE n.at > j.at AND n.at <= j.at + ? ORDER BY n.at DESC LIMIT 1"
        )
        following = f"SELECT n.at FROM {self._changes} AS n WHERE n.at > j.at ORDER BY n.at LIMIT 1"
        longest = longer_than // timedelta(microseconds=1)
        return Statement(
            "WITH RECURSIVE jumps (earlier, at) AS ("
            f"SELECT CAST(NULL AS bigint), min(at) FROM {self._changes} UNION ALL"
            f" SELECT j.at, coalesce(({near}), ({following})) FROM jumps AS j WHERE j.at IS NOT NULL)"
            " SELECT earlier, at FROM jumps WHERE at - earlier > ?"
            f" UNION ALL SELECT max(at), NULL FROM {self._changes}",
            (longest, longest),
        )
