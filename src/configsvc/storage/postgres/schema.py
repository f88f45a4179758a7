"""Migrates PostgreSQL's schema. The first replica that starts does it, in one transaction."""

from psycopg import AsyncConnection, IsolationLevel

from configsvc.domain.lineage import FIRST_HISTORY_REASON, new_history
from configsvc.storage.postgres.connection import execute
from configsvc.storage.sql.migrations import migrations_of, missing_from
from configsvc.storage.sql.statements import Statements

# Replicas that start at the same time migrate one after another under this advisory lock: the first seven bytes of SHA-256 of "configsvc".
LOCK = 0xE8_3068_E92F_DB3A

# Another replica's migration may rewrite a large table, and this one waits for it.
_TIMEOUT = "10min"


async def migrate(url: str, connect_seconds: int, statements: Statements) -> None:
    """Applies the missing migrations. A log without a history gets one.

    Raises:
        FailedPrecondition: a newer release has migrated the schema.
        psycopg.Error: a migration failed; nothing was changed.
    """
    steps = migrations_of("postgres")
    async with await AsyncConnection.connect(
        url, connect_timeout=connect_seconds, application_name="configsvc migration"
    ) as connection:
        # Each statement must see what another replica committed before it released the lock, whatever the default is.
        await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
        await connection.execute("SELECT set_config('statement_timeout', %s, true)", (_TIMEOUT,))
        await connection.execute("SELECT set_config('lock_timeout', %s, true)", (_TIMEOUT,))
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        # Checked first: CREATE SCHEMA IF NOT EXISTS needs the right to create a schema even if it exists.
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
            # As bytes, because the text is not a literal; without parameters, because it may hold several statements.
            await connection.execute(step.sql.encode())
            await connection.execute("INSERT INTO configsvc.migrations VALUES (%s, %s)", (step.number, step.name))
        for statement in statements.first_history(new_history(), FIRST_HISTORY_REASON):
            await execute(connection, statement)
