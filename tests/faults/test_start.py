"""Many processes start at the same time on an empty database."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg.rows import scalar_row

from configsvc.storage.postgres.schema import LOCK
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sql.migrations import migrations_of
from tests.conformance.storage.writing import config, increment, revisions
from tests.engines.ports import Port
from tests.replicas.fleet import Replica, eventually

STORAGES, MIGRATIONS, REPLICAS = 12, 6, 3
STEPS = [step.number for step in migrations_of("postgres")]


def applied(url: str) -> list[int]:
    """The migrations that the database has."""
    with psycopg.connect(url, row_factory=scalar_row) as connection:
        return connection.execute("SELECT number FROM configsvc.migrations ORDER BY number").fetchall()


@contextmanager
def held_back(url: str) -> Iterator[psycopg.Connection[int]]:
    """Holds the migration lock until the end of the block, so that all processes migrate at the same time."""
    with psycopg.connect(url, autocommit=True, row_factory=scalar_row) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        yield connection


def waiting(connection: psycopg.Connection[int]) -> int:
    """The number of sessions that wait for the lock."""
    count = connection.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchone()
    return count or 0


async def test_storages_that_open_together_create_the_schema_once(postgres_url: str) -> None:
    storages = [PostgresStorage(postgres_url, connections=1) for _ in range(STORAGES)]
    await asyncio.gather(*(storage.__aenter__() for storage in storages))
    assert applied(postgres_url) == STEPS
    await asyncio.gather(*(storage.write(increment(config("n"))) for storage in storages for _ in range(5)))
    assert await revisions(storages[0]) == list(range(1, 5 * STORAGES + 1))
    assert (await storages[-1].get([config("n")])).records[config("n")].body == {"value": 5 * STORAGES}
    await asyncio.gather(*(storage.__aexit__(None, None, None) for storage in storages))


def test_replicas_and_migrations_that_start_together_create_the_schema_once(postgres_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": postgres_url}
    command = [sys.executable, "-m", "configsvc", "migrate"]
    with ExitStack() as stack:
        replicas = [
            Replica(f"r{number}", tmp_path, {"DATABASE_URL": postgres_url}, stack.enter_context(Port()).number)
            for number in range(REPLICAS)
        ]
        with held_back(postgres_url) as connection:
            migrations = [
                stack.enter_context(
                    subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                )
                for _ in range(MIGRATIONS)
            ]
            for replica in replicas:
                stack.callback(replica.close)
                replica.start()
            eventually(lambda: waiting(connection) == MIGRATIONS + REPLICAS, "all of them wait for the lock")
            # A process that dies while it holds the lock, or before, blocks nobody.
            migrations[0].kill()
        outputs = [migration.communicate(timeout=60)[0].decode() for migration in migrations]
        assert [migration.returncode for migration in migrations[1:]] == [0] * (MIGRATIONS - 1), outputs
        assert all("is up to date" in end for end in outputs[1:])
        for replica in replicas:
            eventually(replica.is_ready, f"{replica.name} is ready; its log: {replica.log}")
        assert applied(postgres_url) == STEPS
        written = [replica.put(f"by-{replica.name}", 1).revision for replica in replicas]
        assert written == list(range(1, REPLICAS + 1))
        for replica in replicas:
            assert replica.get("by-r0", min_revision=written[-1]).config.revision == 1
