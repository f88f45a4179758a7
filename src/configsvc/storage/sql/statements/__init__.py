"""The SQL that the adapters share.

Each read is one statement. So it is one consistent view in every database, takes one round trip, and needs no transaction
around it: the counter row is joined to the rows, and tells their revision.

Parameters are written `?`, in the order of their values. `Dialect` holds what databases say differently.
"""

from configsvc.storage.sql.statements.changes import ChangeStatements
from configsvc.storage.sql.statements.dialect import Dialect, Statement
from configsvc.storage.sql.statements.histories import HistoryStatements
from configsvc.storage.sql.statements.outbox import OutboxStatements
from configsvc.storage.sql.statements.records import RecordStatements
from configsvc.storage.sql.statements.retention import RetentionStatements
from configsvc.storage.sql.statements.search import SearchStatements
from configsvc.storage.sql.statements.tables import COUNTER_COLUMNS

__all__ = ["COUNTER_COLUMNS", "Dialect", "Statement", "Statements"]


class Statements(
    RecordStatements, ChangeStatements, SearchStatements, HistoryStatements, RetentionStatements, OutboxStatements
):
    """All shared statements of one dialect."""
