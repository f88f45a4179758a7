"""Statements that read the change log."""

from configsvc.domain.records import Ref
from configsvc.storage.sql.bounded_rows import BoundedSelect
from configsvc.storage.sql.rows import ref_values
from configsvc.storage.sql.statements.dialect import Statement
from configsvc.storage.sql.statements.tables import Tables

_LOG_ORDER = "x.revision, x.ordinal"


class ChangeStatements(Tables):
    """Reads `changes`."""

    def version(self, ref: Ref, version: int) -> Statement:
        """Counter, then the change that made a version."""
        select = (
            f"SELECT {self._change_columns} FROM {self._changes}"
            " WHERE kind = ? AND environment = ? AND service = ? AND key = ? AND version = ?"
        )
        return Statement(self._with_counter(select), (ref.kind.value, ref.environment, ref.service, ref.key, version))

    def versions(self, ref: Ref) -> Statement:
        """(newest version, oldest version that the log has or None), or no row."""
        where = "kind = ? AND environment = ? AND service = ? AND key = ?"
        parts = ref_values(ref)
        return Statement(
            f"SELECT version, (SELECT version FROM {self._changes} WHERE {where} ORDER BY version LIMIT 1)"
            f" FROM {self._records} WHERE {where}",
            (*parts, *parts),
        )

    def log(self, after: int, limit: int, max_bytes: int | None) -> Statement:
        """Counter, then the changes after a revision: the whole revisions of the first `limit`, or fewer by `max_bytes`."""
        return self._bounded(self._log(max_bytes), _LOG_ORDER, (after, after, limit - 1))

    def resume(self, after: int, limit: int, max_bytes: int | None) -> Statement:
        """Counter, (since, digest), the digest at `after`, then the changes that `log` selects."""
        more = f", c.since, c.digest, {self._digest_at()}"
        return self._bounded(self._log(max_bytes), _LOG_ORDER, (after, after, after, limit - 1), more)

    def _log(self, max_bytes: int | None) -> BoundedSelect:
        return BoundedSelect(
            table=self._changes,
            columns=self._dialect.change_columns,
            bodies=("before", "after"),
            conditions="WHERE revision > ? AND revision <= coalesce("
            f"(SELECT revision FROM {self._changes} WHERE revision > ? ORDER BY revision, ordinal LIMIT 1 OFFSET ?),"
            " 9223372036854775807) ORDER BY revision, ordinal",
            order="revision, ordinal",
            group="revision",
            max_bytes=max_bytes,
        )
