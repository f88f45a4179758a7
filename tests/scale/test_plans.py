"""No statement costs more because the database is large: a million configurations in a thousand environments, with all
that `filling.LARGE` has.
"""

import asyncio
import inspect
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from configsvc.storage.port import Storage
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sql.statements import Statement, Statements
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.engines.plugin import PrivatePostgres
from tests.scale import filling
from tests.scale.cases import CASES
from tests.scale.plans import Plans, PostgresPlans, SqlitePlans

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def large_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "storage.db"
    asyncio.run(make_schema(SqliteStorage(path)))
    filling.fill_sqlite(path, filling.LARGE, checksums=False)
    return path


@pytest.fixture(scope="module")
def large_postgres(private_postgres: PrivatePostgres) -> str:
    url = private_postgres(durable=False).create_database()
    asyncio.run(make_schema(PostgresStorage(url)))
    filling.fill_postgres(url, filling.LARGE)
    return url


async def make_schema(storage: Storage) -> None:
    """Opens a storage once."""
    async with storage:
        pass


@pytest.fixture(params=["sqlite", "postgres"])
def plans(request: pytest.FixtureRequest) -> Iterator[Plans]:
    """The plans of a large database; what a test changes is undone."""
    if request.param == "sqlite":
        path = request.getfixturevalue("large_sqlite")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            yield SqlitePlans(connection)
            connection.execute("ROLLBACK")
        return
    with psycopg.connect(request.getfixturevalue("large_postgres")) as connection:
        yield PostgresPlans(connection)
        connection.rollback()


def check(plans: Plans, name: str, label: str) -> None:
    """Fails if the statement of a case costs more than the case says."""
    case = CASES[name][label]
    made = case.make(Statements(plans.dialect))
    for statement in [made] if isinstance(made, Statement) else made:
        for cost in plans.costs(statement, case.rows):
            cost.check(f"{name}, {label or 'always'}")


def test_every_statement_has_a_case() -> None:
    methods = {name for name, _ in inspect.getmembers(Statements, inspect.isfunction) if not name.startswith("_")}
    assert methods == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_cost_of_a_statement_is_bounded(plans: Plans, name: str) -> None:
    for label in CASES[name]:
        check(plans, name, label)


INDEXES = [
    ("records_live", "page", "instances"),
    ("changes_by_record", "search", "history"),
    ("changes_by_actor", "search", "actor"),
    ("changes_by_environment", "search", "environment with many"),
    ("changes_by_time", "quiet_periods", "none"),
]


@pytest.mark.parametrize(("index", "name", "label"), INDEXES, ids=[index for index, *_ in INDEXES])
def test_a_plan_without_its_index_is_noticed(plans: Plans, index: str, name: str, label: str) -> None:
    check(plans, name, label)
    plans.run(f"DROP INDEX {plans.dialect.tables}{index}")
    with pytest.raises(AssertionError, match=name):
        check(plans, name, label)
