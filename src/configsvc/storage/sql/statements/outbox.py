"""Statements for the outbox."""

from collections.abc import Sequence

from configsvc.domain.events import EventForm, EventLoss
from configsvc.storage.sql.statements.dialect import Statement
from configsvc.storage.sql.statements.tables import Tables


class OutboxStatements(Tables):
    """Reads and moves the outbox's cursor."""

    def published(self) -> Statement:
        """(published)"""
        return Statement(f"SELECT published FROM {self._outbox}")

    def outbox_status(self) -> Statement:
        """(published, head, revision and time of the oldest unpublished change, failure, reduced, skipped, last loss)"""
        oldest = f"(SELECT min(revision) FROM {self._changes} WHERE revision > o.published)"
        return Statement(
            "SELECT o.published, n.head, c.revision, c.at, o.trouble, o.reduced, o.skipped, o.last_loss"
            f" FROM {self._outbox} AS o CROSS JOIN {self._counter} AS n"
            f" LEFT JOIN {self._changes} AS c ON c.revision = {oldest} AND c.ordinal = 0"
        )

    def advance(self, revision: int, losses: Sequence[EventLoss]) -> Statement:
        """Moves the cursor, counts the losses, and clears the failure."""
        skipped = sum(loss.form is EventForm.SKIPPED for loss in losses)
        last = losses[-1].to_json() if losses else None
        return Statement(
            f"UPDATE {self._outbox} SET published = ?, trouble = '', reduced = reduced + ?, skipped = skipped + ?,"
            " last_loss = coalesce(?, last_loss)",
            (revision, len(losses) - skipped, skipped, last),
        )

    def report_failure(self, reason: str) -> Statement:
        """Stores why nothing can be published."""
        return Statement(f"UPDATE {self._outbox} SET trouble = ?", (reason,))
