"""What a statement costs in a database, in units that are the same on every machine."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

from configsvc.storage.postgres.dialect import DIALECT as POSTGRES
from configsvc.storage.postgres.pools import SETTINGS
from configsvc.storage.sql.statements import Dialect, Statement
from configsvc.storage.sqlite.connection import DIALECT as SQLITE

# Tables that grow. Each of the others has one row, or one for each restore.
LARGE_TABLES = {"records", "changes", "requests"}

# What one row costs at most: the pages of a look-up in an index of a large table, and of the row; SQLite's instructions
# for a row that is sorted twice.
PAGES_PER_ROW, OTHER_PAGES = 5, 100
STEPS_PER_ROW, OTHER_STEPS = 120, 2_000
# SQLite reports after so many instructions.
COUNTED_STEPS = 10


@dataclass(frozen=True, slots=True)
class Cost:
    """`scanned`: the large tables that are read as a whole, in no order. The rest is about the costs of `rows` rows."""

    scanned: frozenset[str]
    used: Mapping[str, int]
    allowed: Mapping[str, int]

    def check(self, what: str) -> None:
        """Fails if it is too high."""
        assert not self.scanned, f"{what} scans {', '.join(self.scanned)}"
        for name, most in self.allowed.items():
            assert self.used[name] <= most, f"{what} costs {self.used[name]} {name}; allowed are {most}"


class Plans(Protocol):
    """Runs statements in a database, and tells their cost."""

    dialect: Dialect

    def costs(self, statement: Statement, rows: int) -> Iterator[Cost]:
        """The costs of each plan that the database may have for a statement, which may read so many rows."""
        ...

    def run(self, sql: str) -> None:
        """Runs a statement without rows."""
        ...


class PostgresPlans:
    """EXPLAIN ANALYZE counts rows and pages. The connection is in a transaction, which somebody rolls back."""

    dialect = POSTGRES

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        for setting, value in SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", (setting, value))

    def costs(self, statement: Statement, rows: int) -> Iterator[Cost]:
        numbered, *rest = statement.sql.split("?")
        for number, part in enumerate(rest, 1):
            numbered += f"${number}{part}"
        self.run(f"PREPARE measured AS {numbered}")
        places = f"({', '.join(['%s'] * len(rest))})" if rest else ""
        # psycopg prepares a statement that was used some times; then PostgreSQL may use a plan for any parameters.
        for mode in ("force_custom_plan", "force_generic_plan"):
            self.run(f"SAVEPOINT before; SET LOCAL plan_cache_mode = {mode}")
            # A client cursor, because EXPLAIN takes no parameters.
            with psycopg.ClientCursor(self._connection) as cursor:
                explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE measured{places}"
                ((plans,),) = cursor.execute(explain.encode(), statement.parameters or None).fetchall()
            self.run("ROLLBACK TO before")
            # Compiling a plan takes longer than running any of these.
            assert "JIT" not in plans[0], "PostgreSQL compiles the plan, because it expects it to be costly"
            yield self._cost(plans[0]["Plan"], rows)
        self.run("DEALLOCATE measured")

    def run(self, sql: str) -> None:
        self._connection.execute(sql.encode())

    def _cost(self, plan: Mapping[str, Any], rows: int) -> Cost:
        nodes = list(_nodes(plan))
        used = {
            "rows": max(map(_rows, nodes)),
            "pages": plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        }
        scanned = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
        allowed = {"rows": rows, "pages": rows * PAGES_PER_ROW + OTHER_PAGES}
        return Cost(frozenset(scanned & LARGE_TABLES), used, allowed)


class SqlitePlans:
    """EXPLAIN QUERY PLAN names the tables, and the instructions of SQLite's virtual machine are counted."""

    dialect = SQLITE

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def costs(self, statement: Statement, rows: int) -> Iterator[Cost]:
        explained = self._connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.parameters).fetchall()
        # "SCAN changes" reads all rows, "SCAN changes USING INDEX …" reads them in an order, until there are enough.
        lines = [line.replace("main.", "") for *_, line in explained]
        scanned = {table for table in LARGE_TABLES if f"SCAN {table}" in lines}
        ticks = 0

        def tick() -> None:
            nonlocal ticks
            ticks += 1

        self._connection.set_progress_handler(tick, COUNTED_STEPS)
        try:
            found = self._connection.execute(statement.sql, statement.parameters).fetchall()
        finally:
            self._connection.set_progress_handler(None, 0)
        used = {"rows": len(found), "instructions": ticks * COUNTED_STEPS}
        yield Cost(frozenset(scanned), used, {"rows": rows, "instructions": rows * STEPS_PER_ROW + OTHER_STEPS})

    def run(self, sql: str) -> None:
        self._connection.execute(sql)


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _rows(node: Mapping[str, Any]) -> int:
    """The rows that a node has read, also those that it left out."""
    left_out = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int((node["Actual Rows"] + left_out) * node["Actual Loops"])
