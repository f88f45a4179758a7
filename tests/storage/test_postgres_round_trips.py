"""How many round trips a group of writes takes on PostgreSQL, and what happens if one of them can't be made."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from configsvc.domain.records import Kind, Scope, Write
from configsvc.storage.postgres.round_trip import RoundTripConnection
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sql.reads import Rows
from configsvc.storage.sql.statements import Statement
from tests.conformance.storage.writing import author, config, create, put

A, B = config("a"), config("b")


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of statements of each round trip."""
    counts: list[int] = []
    run = RoundTripConnection.run

    async def counted(connection: RoundTripConnection, statements: Sequence[Statement]) -> list[Rows]:
        counts.append(len(statements))
        return await run(connection, statements)

    monkeypatch.setattr(RoundTripConnection, "run", counted)
    return counts


async def test_group_of_known_records_is_one_statement(postgres_url: str, round_trips: list[int]) -> None:
    async with PostgresStorage(postgres_url) as storage:
        await asyncio.gather(storage.write(put(A)), storage.write(put(B)))
        assert round_trips == [3, 2]
        round_trips.clear()
        await asyncio.gather(storage.write(put(A, 2)), storage.write(put(B, 2)), storage.write(put(A, 3)))
        assert round_trips == [1]
        assert (await storage.get([A])).records[A].version == 3


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(put(config("other")), id="unknown record"),
        pytest.param(Write(author(), (A, Scope(Kind.CONFIG, "test")), lambda _: ()), id="set of records"),
        pytest.param(create(A), id="nothing to store"),
    ],
)
async def test_other_groups_are_planned_under_the_lock(postgres_url: str, round_trips: list[int], write: Write) -> None:
    async with PostgresStorage(postgres_url) as storage:
        await storage.write(put(A))
        round_trips.clear()
        await asyncio.gather(storage.write(write), return_exceptions=True)
        assert round_trips[0] >= 3


async def test_retry_of_a_known_record_gets_the_first_outcome(postgres_url: str, round_trips: list[int]) -> None:
    async with PostgresStorage(postgres_url) as storage:
        first = await storage.write(create(A, by=author("request")))
        for _ in range(2):
            again, other = await asyncio.gather(storage.write(create(A, by=author("request"))), storage.write(put(B)))
            assert (again.revision, again.replayed) == (first.revision, True)
            assert not other.replayed
        put_twice = [await storage.write(put(A, 2, by=author("put"))) for _ in range(2)]
        assert [one.revision for one in put_twice] == [4, 4]


async def test_other_replica_is_noticed_and_its_writes_are_not_lost(postgres_url: str, round_trips: list[int]) -> None:
    async with PostgresStorage(postgres_url) as here, PostgresStorage(postgres_url) as there:
        await here.write(put(A, "here"))
        await there.write(put(A, "there"))
        round_trips.clear()
        assert (await here.write(put(A, "again"))).changes[0].before == {"value": "there"}
        # One attempt that stored nothing, and then two under the lock.
        assert round_trips == [1, 3, 2]
        round_trips.clear()
        await here.write(put(A))
        await here.write(put(A))
        assert round_trips == [3, 2, 1]


async def test_connection_that_the_server_ended_between_writes_costs_no_write(postgres_url: str) -> None:
    async with PostgresStorage(postgres_url) as storage:
        await storage.write(put(A))
        async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other:
            await other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s",
                ("configsvc writing",),
            )
        assert (await storage.write(put(A))).changes[0].version == 2


async def test_stricter_isolation_by_default_changes_nothing(postgres_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other:
        statement = f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'"
        await other.execute(statement.encode())
    async with PostgresStorage(postgres_url) as here, PostgresStorage(postgres_url) as there:
        for number in range(3):
            await asyncio.gather(*(storage.write(put(A)) for storage in (here, there, here)))
            assert (await here.get([A])).records[A].version == 3 * (number + 1)
