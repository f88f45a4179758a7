"""A full disk is detected, however the operating system reports it."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configsvc.storage.sqlite.connection import translation
from configsvc.storage.sqlite.disk_space import PAGE_BYTES, is_disk_full

# SQLITE_IOERR_WRITE: the operation is in the higher bytes.
IO_ERROR = sqlite3.SQLITE_IOERR_WRITE


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Writes beyond this offset fail with EFBIG, as if a quota was used up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def driver_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


def database(folder: Path, *, wal_bytes: int = 0) -> Path:
    path = folder / "configsvc.db"
    path.write_bytes(bytes(PAGE_BYTES))
    Path(f"{path}-wal").write_bytes(bytes(wal_bytes))
    return path


def test_disk_is_full_if_the_longest_file_of_the_database_can_not_grow(tmp_path: Path) -> None:
    path = database(tmp_path, wal_bytes=10 * PAGE_BYTES)
    assert not is_disk_full(path)
    with file_size_limit(11 * PAGE_BYTES):
        assert not is_disk_full(path)
        assert is_disk_full(path, 2 * PAGE_BYTES)
    with file_size_limit(10 * PAGE_BYTES):
        assert is_disk_full(path)


def test_missing_directory_is_not_a_full_disk(tmp_path: Path) -> None:
    assert not is_disk_full(tmp_path / "missing" / "configsvc.db")


def test_io_error_on_a_full_disk_is_reported_as_full(tmp_path: Path) -> None:
    path = database(tmp_path)
    with file_size_limit(PAGE_BYTES):
        assert translation(driver_error(IO_ERROR), path).reason == "STORAGE_FULL"
        assert translation(driver_error(IO_ERROR)).reason != "STORAGE_FULL", "the path is not known"
        assert translation(driver_error(sqlite3.SQLITE_BUSY), path).reason != "STORAGE_FULL"
    assert translation(driver_error(IO_ERROR), path).reason != "STORAGE_FULL"


def test_sqlite_full_is_reported_as_full() -> None:
    assert translation(driver_error(sqlite3.SQLITE_FULL)).reason == "STORAGE_FULL"
