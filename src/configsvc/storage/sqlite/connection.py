"""Connections to the embedded database: how they are opened, what SQL they speak, and what their errors mean."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configsvc.domain.lineage import MADE, new_history
from configsvc.errors import DataLoss, Unavailable
from configsvc.storage.sql.checksums import checksum
from configsvc.storage.sql.migrations import migrations_of, missing_from
from configsvc.storage.sql.rows import json_text_of, ref_values
from configsvc.storage.sql.statements import Dialect, Statements
from configsvc.storage.sqlite.damage import NAMED_PROBLEMS, Damage
from configsvc.storage.sqlite.disk_space import is_disk_full

# Only a tool that has opened the file by hand can hold a lock: wait for it as long as a caller would.
_BUSY_SECONDS = 5.0

DIALECT = Dialect(
    tables="main.",
    among="{} IN (SELECT value FROM json_each(?))",
    contains="instr({}, ?) > 0",
    refs=(
        "(SELECT json_extract(value, '$[0]') AS kind, json_extract(value, '$[1]') AS environment,"
        " json_extract(value, '$[2]') AS service, json_extract(value, '$[3]') AS key FROM json_each(?))"
    ),
    many=json_text_of,
    many_refs=lambda refs: (json_text_of([ref_values(ref) for ref in refs]),),
    now="CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    checksums=True,
    walks=True,
)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection; `mode` is SQLite's: `rwc` or `ro`."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        # Transactions are written out.
        isolation_level=None,
        # Each connection is used by one thread at a time; they are all closed by the writer's.
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the schema up to date. A log that has no history yet gets one."""
    connection.create_function("row_checksum", -1, checksum, deterministic=True)
    ((applied,),) = connection.execute("PRAGMA user_version").fetchall()
    for step in missing_from(migrations_of("sqlite"), applied):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {step.sql}\nPRAGMA user_version = {step.number}; COMMIT;")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    # One process owns the file, so nobody comes between the two.
    for statement in Statements(DIALECT).began(new_history(), MADE):
        connection.execute(statement.sql, statement.parameters)


def check_structure(connection: sqlite3.Connection, check: str, damage: Damage) -> None:
    """Runs one of SQLite's own checks, and that revisions would go on above all that are there."""
    found = [line for (line,) in connection.execute(f"PRAGMA {check}({NAMED_PROBLEMS})")]
    if found != ["ok"]:
        damage.note(*found, structural=True)
        return
    ((head, newest),) = connection.execute("SELECT head, (SELECT max(revision) FROM changes) FROM counter").fetchall()
    if newest is not None and newest > head:
        damage.note(f"the counter of revisions says {head}, but revision {newest} is there", structural=True)


def translation(cause: BaseException, path: Path | None = None) -> Unavailable | DataLoss:
    """The port's error for a driver's one. With the database's path, a lack of room is told whatever it is called."""
    code = getattr(cause, "sqlite_errorcode", 0)
    # The lowest byte is the kind; the others say at which operation. A text that is no UTF-8 has no code of SQLite's, and
    # where Python can't quote it in a message, it is a UnicodeDecodeError.
    is_text = isinstance(cause, sqlite3.OperationalError | UnicodeDecodeError) and not code
    if is_text or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DataLoss(f"the database is damaged: {cause}")
    is_full = code == sqlite3.SQLITE_FULL or (
        code & 0xFF == sqlite3.SQLITE_IOERR and path is not None and is_disk_full(path)
    )
    if is_full:
        return Unavailable(f"there is no room for the database on its disk: {cause}", "STORAGE_FULL")
    return Unavailable(f"the database can't be used: {cause}")


@contextmanager
def translated(path: Path | None = None) -> Iterator[None]:
    """Translates the errors of a database that can't be used; those of a wrong statement are bugs, and stay."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.NotSupportedError):
        raise
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise translation(error, path) from error
