"""PostgreSQL's schema, brought up to date by whichever replica comes first, in one transaction."""

from psycopg import AsyncConnection, IsolationLevel

from configsvc.domain.lineage import MADE, new_history
from configsvc.storage.postgres.connection import execute
from configsvc.storage.sql.migrations import migrations_of, missing_from
from configsvc.storage.sql.statements import Statements

# Replicas that start together take turns by it. A constant of ours: the first seven bytes of SHA-256 of "configsvc".
LOCK = 0xE8_3068_E92F_DB3A

# Waiting for another replica's migration, which may rewrite a large table.
_PATIENCE = "10min"


async def migrate(url: str, connect_seconds: int, statements: Statements) -> None:
    """Applies what is missing. A log that has no history yet gets one.

    Raises:
        FailedPrecondition: the schema is a newer release's.
        psycopg.Error: it failed, and nothing was changed.
    """
    steps = migrations_of("postgres")
    async with await AsyncConnection.connect(
        url, connect_timeout=connect_seconds, application_name="configsvc migration"
    ) as connection:
        # Each statement sees what another replica did before it let the lock go, whatever the database's default is.
        await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
        await connection.execute("SELECT set_config('statement_timeout', %s, true)", (_PATIENCE,))
        await connection.execute("SELECT set_config('lock_timeout', %s, true)", (_PATIENCE,))
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        # Asked first: CREATE SCHEMA IF NOT EXISTS needs the right to create one even where it is there.
        found = await connection.execute("SELECT to_regclass('configsvc.migrations') IS NOT NULL")
        if await found.fetchone() == (False,):
            schema = await connection.execute("SELECT to_regnamespace('configsvc') IS NOT NULL")
            if await schema.fetchone() == (False,):
                await connection.execute("CREATE SCHEMA configsvc")
            await connection.execute(
                "CREATE TABLE configsvc.migrations (number integer PRIMARY KEY, name text NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT now())"
            )
        count = await (await connection.execute("SELECT count(*) FROM configsvc.migrations")).fetchone()
        assert count is not None
        for step in missing_from(steps, count[0]):
            # As bytes, since the text is not a literal, and without parameters, so that it may be several statements.
            await connection.execute(step.sql.encode())
            await connection.execute("INSERT INTO configsvc.migrations VALUES (%s, %s)", (step.number, step.name))
        for statement in statements.began(new_history(), MADE):
            await execute(connection, statement)
