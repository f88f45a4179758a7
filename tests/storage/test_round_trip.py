"""Several statements in one round trip: values of all kinds arrive unchanged, and an error leaves a usable connection."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors

from configsvc.storage.postgres.round_trip import RoundTripConnection
from configsvc.storage.sql.statements import Statement

# What a text in PostgreSQL can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
BIGINTS = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[RoundTripConnection]:
    async with await RoundTripConnection.connect(postgres_url, autocommit=True) as opened:
        yield opened


def one(number: int) -> Statement:
    return Statement("SELECT ?::bigint", (number,))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.none() | TEXTS), st.lists(BIGINTS), st.none() | TEXTS, st.none() | BIGINTS)
async def test_values_arrive_unchanged(
    connection: RoundTripConnection,
    texts: list[str | None],
    numbers: list[int],
    text: str | None,
    number: int | None,
) -> None:
    values = (texts, numbers, text, number)
    rows = await connection.run([Statement("SELECT ?::text[], ?::bigint[], ?::text, ?::bigint", values)])
    assert rows == [[values]]


async def test_statements_run_in_their_order_and_each_has_its_rows(connection: RoundTripConnection) -> None:
    found = await connection.run(
        [
            Statement("CREATE TEMPORARY TABLE numbers (number bigint)"),
            Statement("INSERT INTO numbers SELECT unnest(?::bigint[])", ([3, 1, 2],)),
            Statement("SELECT number FROM numbers ORDER BY number"),
            Statement("SELECT number FROM numbers WHERE number > ?", (5,)),
        ]
    )
    assert [list(rows) for rows in found] == [[], [], [(1,), (2,), (3,)], []]


async def test_statement_that_comes_twice_is_prepared_once(connection: RoundTripConnection) -> None:
    assert await connection.run([one(1), one(2)]) == [[(1,)], [(2,)]]
    assert await connection.run([one(3)]) == [[(3,)]]
    prepared = await connection.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%bigint'")
    assert await prepared.fetchone() == (1,)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (Statement("SELECT 1 / ?::bigint", (0,)), errors.DivisionByZero),
        (Statement("SELECT this is no SQL"), errors.SyntaxError),
        (Statement("SELECT ?::text", ("a\0b",)), psycopg.DataError),
        (Statement("SELECT ?::text[]", (["a\0b"],)), psycopg.DataError),
        (Statement("SELECT ?::text", ("\ud800",)), UnicodeEncodeError),
        (Statement("SELECT ?::text[]", (["a", "\ud800"],)), UnicodeEncodeError),
    ],
)
async def test_error_skips_the_rest_and_leaves_the_connection_usable(
    connection: RoundTripConnection, statement: Statement, error: type[Exception]
) -> None:
    await connection.execute("CREATE TEMPORARY TABLE numbers (number bigint)")
    late = Statement("INSERT INTO numbers SELECT ?::bigint", (1,))
    for _ in range(2):
        with pytest.raises(error):
            await connection.run([Statement("BEGIN"), one(1), statement, late])
        await connection.rollback()
    # `late` was skipped before it was prepared.
    assert await connection.run([late, Statement("SELECT * FROM numbers")]) == [(), [(1,)]]


async def test_connection_that_the_server_ended_is_closed(connection: RoundTripConnection, postgres_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other:
        await other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        await connection.run([one(1)])
    assert connection.closed
    with pytest.raises(psycopg.OperationalError):
        await connection.run([one(1)])
