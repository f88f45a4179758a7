"""Writes per second of this service's storage, next to the same statements with a transaction for each write.

For PostgreSQL there is also an upper bound: every writer has its own connection, and a plain sequence gives the number.
That is fast and wrong: a later number can commit first, and a reader that follows the log by number misses the earlier.
"""

import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from psycopg_pool import AsyncConnectionPool

from benchmarks.measure import Table, calls_per_second, in_async_turns
from benchmarks.measure import run as run_loop
from benchmarks.placement import Placement
from benchmarks.run import Run
from configsvc.domain.records import Action, Author, Kind, Mutation, Put, Ref, View, Write
from configsvc.storage.port import Writer
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sqlite.storage import SqliteStorage

WRITERS = (1, 8, 64)
# Ten sides and levels of one second each would take most of the whole run.
ROUND_PART = 0.5
WARM_SECONDS = 0.1
BODY = {"value": "v" * 100, "description": ""}
GROUPED, ONE_BY_ONE, SEQUENCE = "group commit", "a transaction a write", "a sequence, no order"

# Makes one write as the writer with this number.
OneWrite = Callable[[int], Awaitable[object]]

_NAIVE_SCHEMA = """
CREATE TABLE naive_records (key text PRIMARY KEY, revision bigint NOT NULL, body jsonb NOT NULL);
CREATE TABLE naive_changes (
    revision bigserial PRIMARY KEY, key text NOT NULL, action text NOT NULL, after jsonb NOT NULL,
    actor text NOT NULL, reason text NOT NULL, at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON naive_changes (key, revision);
"""
_NAIVE_WRITE = """
WITH change AS (
    INSERT INTO naive_changes (key, action, after, actor, reason) VALUES (%(key)s, 'UPDATE', %(body)s, 'bench', 'why')
    RETURNING revision
)
INSERT INTO naive_records (key, revision, body) SELECT %(key)s, revision, %(body)s FROM change
ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, body = excluded.body
"""


def tables(run: Run, placement: Placement) -> Sequence[Table]:
    """One table for each number of writers and each database."""
    run = run.on(placement, run.stack)
    postgres = run.services.postgres
    with postgres.database() as grouped, postgres.database() as one_by_one, postgres.database() as naive:
        urls = {GROUPED: grouped, ONE_BY_ONE: one_by_one, SEQUENCE: naive}
        return run_loop(_tables(run, urls))


async def _tables(run: Run, urls: Mapping[str, str]) -> Sequence[Table]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="configsvc-bench-")))
        grouped = await stack.enter_async_context(PostgresStorage(urls[GROUPED]))
        one_by_one = await stack.enter_async_context(PostgresStorage(urls[ONE_BY_ONE], group_writes=1))
        on_postgres = {
            GROUPED: _into(grouped),
            ONE_BY_ONE: _into(one_by_one),
            SEQUENCE: await _naive(stack, urls[SEQUENCE]),
        }
        on_sqlite = {
            GROUPED: _into(await stack.enter_async_context(SqliteStorage(directory / "grouped.db"))),
            ONE_BY_ONE: _into(await stack.enter_async_context(SqliteStorage(directory / "one.db", group_writes=1))),
        }
        return [
            await _table(f"Writes to {database}, {writers} at once", sides, writers, run)
            for database, sides in (("PostgreSQL", on_postgres), ("SQLite", on_sqlite))
            for writers in WRITERS
        ]


async def _table(title: str, sides: Mapping[str, OneWrite], writers: int, run: Run) -> Table:
    async def measured(write: OneWrite, seconds: float) -> float:
        return await calls_per_second(write, writers, seconds)

    for write in sides.values():
        await measured(write, WARM_SECONDS)
    rounds = {
        side: lambda write=write: measured(write, run.effort.seconds * ROUND_PART) for side, write in sides.items()
    }
    key = "group_commit." + title.partition(" to ")[2].replace(", ", ".").replace(" at once", "").lower()
    return run.table(key, title, "writes/s", await in_async_turns(rounds, run.effort.rounds))


def _into(storage: Writer) -> OneWrite:
    async def write(writer: int) -> None:
        ref = Ref(Kind.CONFIG, "bench", "", f"key-{writer}")

        def decide(view: View) -> Sequence[Mutation]:
            return [Put(ref, BODY, Action.UPDATE if view.get(ref) else Action.CREATE)]

        await storage.write(Write(Author("bench", "why", "", datetime.now(UTC)), (ref,), decide, ""))

    return write


async def _naive(stack: AsyncExitStack, url: str) -> OneWrite:
    connections = max(WRITERS)
    pool = AsyncConnectionPool(url, min_size=connections, max_size=connections, open=False, kwargs={"autocommit": True})
    await stack.enter_async_context(pool)
    await pool.wait()
    async with pool.connection() as connection:
        await connection.execute(_NAIVE_SCHEMA)
    body = f'{{"value": "{BODY["value"]}", "description": ""}}'

    async def write(writer: int) -> None:
        async with pool.connection() as connection:
            await connection.execute(_NAIVE_WRITE, {"key": f"key-{writer}", "body": body})

    return write
