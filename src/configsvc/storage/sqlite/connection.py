"""Connections to the embedded database: how they are opened, their SQL, and the translation of their errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configsvc.domain.lineage import FIRST_HISTORY_REASON, new_history
from configsvc.errors import DataLoss, Unavailable
from configsvc.storage.sql.checksums import checksum
from configsvc.storage.sql.migrations import migrations_of, missing_from
from configsvc.storage.sql.rows import json_text_of, ref_values
from configsvc.storage.sql.statements import Dialect, Statements
from configsvc.storage.sqlite.damage import NAMED_PROBLEMS, KnownDamage
from configsvc.storage.sqlite.disk_space import is_disk_full

# Only a tool that somebody runs on the file can hold a lock. Wait for it as long as a caller would.
_BUSY_SECONDS = 5.0

DIALECT = Dialect(
    tables="main.",
    among="{} IN (SELECT value FROM json_each(?))",
    contains="instr({}, ?) > 0",
    same="{} = ?",
    refs=(
        "(SELECT json_extract(value, '$[0]') AS kind, json_extract(value, '$[1]') AS environment,"
        " json_extract(value, '$[2]') AS service, json_extract(value, '$[3]') AS key FROM json_each(?))"
    ),
    many=json_text_of,
    many_refs=lambda refs: (json_text_of([ref_values(ref) for ref in refs]),),
    now="CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    checksums=True,
    reads_row_by_row=True,
)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a connection; `mode` is SQLite's: `rwc` or `ro`."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        # No implicit transactions: BEGIN and COMMIT are written out.
        isolation_level=None,
        # One thread at a time uses a connection, but the writer's thread closes all of them.
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Applies the missing migrations. A log without a history gets one."""
    connection.create_function("row_checksum", -1, checksum, deterministic=True)
    ((applied,),) = connection.execute("PRAGMA user_version").fetchall()
    for step in missing_from(migrations_of("sqlite"), applied):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {step.sql}\nPRAGMA user_version = {step.number}; COMMIT;")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    # This needs no transaction: one process owns the file.
    for statement in Statements(DIALECT).first_history(new_history(), FIRST_HISTORY_REASON):
        connection.execute(statement.sql, statement.parameters)


def check_structure(connection: sqlite3.Connection, check: str, damage: KnownDamage) -> None:
    """Runs one of SQLite's own checks, and checks that no stored revision is above the counter."""
    found = [line for (line,) in connection.execute(f"PRAGMA {check}({NAMED_PROBLEMS})")]
    if found != ["ok"]:
        damage.add(*found, structural=True)
        return
    ((head, newest),) = connection.execute("SELECT head, (SELECT max(revision) FROM changes) FROM counter").fetchall()
    if newest is not None and newest > head:
        damage.add(f"the revision counter is {head}, but revision {newest} exists", structural=True)


def translation(cause: BaseException, path: Path | None = None) -> Unavailable | DataLoss:
    """The port's error for a driver's error. With the database's path, it detects a full disk behind an I/O error."""
    code = getattr(cause, "sqlite_errorcode", 0)
    # The lowest byte is the kind of error, the others are the operation. Stored text that is not UTF-8 raises an
    # OperationalError without a code, or a UnicodeDecodeError if Python can't quote the text in a message.
    is_text = isinstance(cause, sqlite3.OperationalError | UnicodeDecodeError) and not code
    if is_text or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DataLoss(f"the database is damaged: {cause}")
    is_full = code == sqlite3.SQLITE_FULL or (
        code & 0xFF == sqlite3.SQLITE_IOERR and path is not None and is_disk_full(path)
    )
    if is_full:
        return Unavailable(f"the database's disk is full: {cause}", "STORAGE_FULL")
    return Unavailable(f"the database can't be used: {cause}")


@contextmanager
def translated(path: Path | None = None) -> Iterator[None]:
    """Translates the errors of a database that can't be used. Errors of a wrong statement are bugs and pass through."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.NotSupportedError):
        raise
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise translation(error, path) from error
