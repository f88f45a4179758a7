"""Fills a database in bulk with as much as a large fleet has, as the service would have written it: each record has its
change in the log, and the log has no gap.

Only a database that the service has opened once, and to which nothing was written, can be filled.

The digests of changes are as long as real ones, but they are not a chain: nothing computes the chain again.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from configsvc.domain.configs import Config
from configsvc.domain.flags import body_of, parse
from configsvc.domain.records import Kind
from configsvc.storage.sql.checksums import checksum
from configsvc.storage.sql.rows import CHANGE_COLUMNS, RECORD_COLUMNS, json_text

# 2026-01-01 in microseconds since 1970. The revision N was made N milliseconds later.
FIRST_TIME = 1_767_225_600_000_000
MILLISECOND = 1_000
ACTORS = 100
# Replaced in a body by the record's number.
NUMBER = "0000000"

FLAGS_ENVIRONMENT = "flags"
HOT_ENVIRONMENT, HOT_KEY = "hot", "hot"


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is.

    - `configs` are spread evenly over `environments`, with `services` services in turn; they are written in turn, too.
    - `flags` are all in one environment, and `instances` are spread evenly over `services`.
    - `versions` are of one configuration, after all else.
    - The first `requests` changes had a request id.
    - `removed` instances have left, and their changes were compacted away. They precede all others by id.
    """

    configs: int
    environments: int
    flags: int
    services: int
    instances: int
    versions: int
    requests: int
    removed: int

    @property
    def changes(self) -> int:
        """Also the newest revision: each has one change."""
        return self.configs + self.flags + self.instances + self.versions


LARGE = Size(
    configs=1_000_000,
    environments=1_000,
    flags=10_000,
    services=1_000,
    instances=10_000,
    versions=10_000,
    requests=100_000,
    removed=100_000,
)


def environment_name(number: int) -> str:
    """The name of an environment, 0 to `environments` - 1."""
    return f"env-{number:07}"


def service_name(number: int) -> str:
    """The name of a service, 0 to `services` - 1."""
    return f"svc-{number:07}"


def config_key(number: int) -> str:
    """The key of a configuration within its environment, 0 on."""
    return f"app.key-{number:07}"


def flag_name(number: int) -> str:
    """The name of a flag, 0 to `flags` - 1."""
    return f"flag-{number:07}"


def fill_postgres(url: str, size: Size, owner: str = "") -> None:
    """Fills the database at `url`. `owner`: the replica that owns the instances."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '256MB'; SET synchronous_commit = off")

        def rows(sql: str) -> list[Any]:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

        find_indexes = (
            "SELECT 'configsvc.' || indexname, indexdef FROM pg_indexes"
            " WHERE schemaname = 'configsvc' AND indexdef NOT LIKE '%_pkey%'"
        )
        _fill(rows, _Postgres(), find_indexes, size, owner)
        # Also sets the visibility map, as autovacuum would.
        connection.execute("VACUUM (ANALYZE) configsvc.records, configsvc.changes, configsvc.requests")


def fill_sqlite(path: Path, size: Size, owner: str = "", *, checksums: bool = True) -> None:
    """Fills the database in the file `path`, which no process may have open. `owner`: as above.

    Without `checksums` it takes half of the time, and the service finds that each row is damaged; its statements run.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("row_checksum", -1, checksum, deterministic=True)
        # Without a log that has everything once more, and without flushes.
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        find_indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        connection.execute("BEGIN")
        _fill(lambda sql: connection.execute(sql).fetchall(), _Sqlite(checksums), find_indexes, size, owner)
        # No ANALYZE: the service never runs it, so SQLite plans without knowing the data.
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


class _Postgres:
    tables, columns = "configsvc.", ""

    def numbers(self, count: int) -> str:
        return f"generate_series(0, {count - 1}) AS s (n)"

    def padded(self, number: str, digits: int) -> str:
        return f"lpad(({number})::text, {digits}, '0')"

    def checked(self, select: str, _columns: tuple[str, ...]) -> str:
        return select


class _Sqlite:
    tables, columns = "", ", checksum"

    def __init__(self, checksums: bool) -> None:
        self._checksums = checksums

    def numbers(self, count: int) -> str:
        counting = f"SELECT 0 AS n UNION ALL SELECT n + 1 FROM s WHERE n < {count - 1}"
        return f"(WITH RECURSIVE s (n) AS ({counting}) SELECT n FROM s) AS s"

    def padded(self, number: str, digits: int) -> str:
        return f"printf('%0{digits}d', {number})"

    def checked(self, select: str, columns: tuple[str, ...]) -> str:
        names = ", ".join(columns)
        checksum = f"row_checksum({names})" if self._checksums else "0"
        return f"SELECT {names}, {checksum} FROM ({select})"


@dataclass(frozen=True, slots=True)
class _Records:
    """Records with numbers `n` from 0 to `count` - 1, in the order of their revisions.

    `environment`, `service` and `key` are SQL of `n`; `first` is the revision of number 0. `turns`: the records are in
    so many groups in turn, and the primary key has the groups one after the other.
    """

    kind: Kind
    count: int
    first: int
    environment: str
    service: str
    key: str
    body: str
    turns: int = 1


def _fill(
    rows: Callable[[str], list[Any]], dialect: _Postgres | _Sqlite, find_indexes: str, size: Size, owner: str
) -> None:
    # To build an index afterwards takes a fraction of the time.
    indexes = rows(find_indexes)
    for name, _ in indexes:
        rows(f"DROP INDEX {name}")
    for records in _all_records(dialect, size, owner):
        rows(_insert(dialect, "records", RECORD_COLUMNS, _records(dialect, records)))
        rows(_insert(dialect, "changes", CHANGE_COLUMNS, _creations(dialect, records, size)))
    rows(_insert(dialect, "records", RECORD_COLUMNS, _removed(dialect, size)))
    requests = f"SELECT {_request_id('n + 1', size)}, 'fingerprint', n + 1 FROM {dialect.numbers(size.requests)}"
    rows(f"INSERT INTO {dialect.tables}requests (request_id, fingerprint, revision) {requests}")
    if size.versions:
        hot = _hot(size)
        rows(_insert(dialect, "records", RECORD_COLUMNS, _last_version(dialect, hot)))
        rows(_insert(dialect, "changes", CHANGE_COLUMNS, _versions(dialect, hot, size)))
    for _, sql in indexes:
        rows(sql)
    tables, digest = dialect.tables, _digest(dialect, str(size.changes))
    rows(f"UPDATE {tables}counter SET head = {size.changes}, digest = {digest}")
    rows(f"UPDATE {tables}outbox SET published = {size.changes}")


def _all_records(dialect: _Postgres | _Sqlite, size: Size, owner: str) -> Iterator[_Records]:
    def name(prefix: str, number: str) -> str:
        return f"'{prefix}-' || {dialect.padded(number, len(NUMBER))}"

    if size.configs % size.environments:
        raise ValueError("every environment has as many configurations as every other")
    environment, key = name("env", f"n % {size.environments}"), name("app.key", f"n / {size.environments}")
    config = json_text(Config({"text": "v" * 60, "number": 1}, f"configuration {NUMBER}").body)
    yield _Records(Kind.CONFIG, size.configs, 1, environment, "''", key, config, size.environments)
    flag = parse(
        {
            "name": f"flag-{NUMBER}",
            "environment": FLAGS_ENVIRONMENT,
            "enabled": True,
            "rollout_percentage": 25,
            "targeted_users": ["ann", "bob"],
            "salt": NUMBER,
        }
    )
    first = size.configs + 1
    flag_environment = f"'{FLAGS_ENVIRONMENT}'"
    yield _Records(Kind.FLAG, size.flags, first, flag_environment, "''", name("flag", "n"), json_text(body_of(flag)))
    instance = {
        "service_url": f"http://10.0.0.1:8080/{NUMBER}", "health_check_url": "", "metadata": {}, "weight": 1, "zone": "",
        "version": "1.0.0", "lease_ttl_seconds": 86_400, "status": "HEALTHY", "owner": owner, "generation": 1,
        "incarnation": 1,
    }  # fmt: skip
    service = name("svc", f"n % {size.services}")
    first += size.flags
    yield _Records(Kind.INSTANCE, size.instances, first, "''", service, name("instance", "n"), json_text(instance))


def _hot(size: Size) -> _Records:
    body = json_text(Config("the same in every version").body)
    first = size.changes - size.versions + 1
    return _Records(Kind.CONFIG, size.versions, first, f"'{HOT_ENVIRONMENT}'", "''", f"'{HOT_KEY}'", body)


def _insert(dialect: _Postgres | _Sqlite, table: str, columns: tuple[str, ...], select: str) -> str:
    names = ", ".join(columns)
    return f"INSERT INTO {dialect.tables}{table} ({names}{dialect.columns}) {dialect.checked(select, columns)}"


def _records(dialect: _Postgres | _Sqlite, records: _Records) -> str:
    # In the order of the primary key, so that each row is added at its end.
    per_group = records.count // records.turns
    number = f"(n % {per_group}) * {records.turns} + n / {per_group}"
    numbers = f"(SELECT {number} AS n FROM {dialect.numbers(records.count)}) AS o" if records.turns > 1 else ""
    return _record_columns(dialect, records, "1", numbers or dialect.numbers(records.count))


def _creations(dialect: _Postgres | _Sqlite, records: _Records, size: Size) -> str:
    states = _record_columns(dialect, records, "1", dialect.numbers(records.count))
    return _change_columns(dialect, size, states, "'CREATE'", "NULL", "0")


def _removed(dialect: _Postgres | _Sqlite, size: Size) -> str:
    key = f"'gone-' || {dialect.padded('n', len(NUMBER))}"
    gone = _Records(Kind.INSTANCE, size.removed, 0, "''", "'svc-0000000'", key, "")
    columns = ", ".join("NULL AS body" if name == "body" else name for name in RECORD_COLUMNS)
    # Their last changes were in the first revision that there was.
    columns = columns.replace("revision", "1 AS revision")
    return f"SELECT {columns} FROM ({_record_columns(dialect, gone, '2', dialect.numbers(size.removed))}) AS r"


def _last_version(dialect: _Postgres | _Sqlite, hot: _Records) -> str:
    return _record_columns(dialect, hot, str(hot.count), f"(SELECT {hot.count - 1} AS n) AS s")


def _versions(dialect: _Postgres | _Sqlite, hot: _Records, size: Size) -> str:
    states = _record_columns(dialect, hot, "n + 1", dialect.numbers(hot.count))
    is_first = f"revision = {hot.first}"
    action = f"CASE WHEN {is_first} THEN 'CREATE' ELSE 'UPDATE' END"
    return _change_columns(
        dialect,
        size,
        states,
        action,
        f"CASE WHEN NOT {is_first} THEN body END",
        f"CASE WHEN {is_first} THEN 0 ELSE revision - 1 END",
    )


def _record_columns(dialect: _Postgres | _Sqlite, records: _Records, version: str, numbers: str) -> str:
    body = f"replace('{records.body}', '{NUMBER}', {dialect.padded('n', len(NUMBER))})"
    at = f"{FIRST_TIME} + ({records.first} + n) * {MILLISECOND}"
    return (
        f"SELECT '{records.kind.value}' AS kind, {records.environment} AS environment, {records.service} AS service,"
        f" {records.key} AS key, {version} AS version, {records.first} + n AS revision, {body} AS body, {at} AS created_at,"
        f" {at} AS updated_at, 'actor-' || (n % {ACTORS}) AS updated_by FROM {numbers}"
    )


def _change_columns(
    dialect: _Postgres | _Sqlite, size: Size, states: str, action: str, before: str, before_revision: str
) -> str:
    return (
        f"SELECT revision, 0 AS ordinal, kind, environment, service, key, {action} AS action, version, {before} AS before,"
        f" body AS after, {before_revision} AS before_revision, created_at, updated_by AS actor,"
        f" 'release ' || revision AS reason, {_request_id('revision', size)} AS request_id, updated_at AS at,"
        f" {_digest(dialect, 'revision')} AS digest FROM ({states}) AS r"
    )


def _request_id(revision: str, size: Size) -> str:
    return f"CASE WHEN {revision} <= {size.requests} THEN 'request-' || ({revision}) ELSE '' END"


def _digest(dialect: _Postgres | _Sqlite, revision: str) -> str:
    return dialect.padded(revision, 32)
