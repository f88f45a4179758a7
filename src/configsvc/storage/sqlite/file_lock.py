"""The embedded database's file: one process owns it, other users can't read it, and its removal is detected.

- **Owned.** The file itself is locked (flock on its inode), so that a second process is refused by every path to it (a
  symbolic link, a hard link), and even if the lock file was removed. The system releases the lock when the process ends,
  however it ends. A lock file beside it names the owner, and keeps out older releases that lock only that file.
- **Private.** The file, SQLite's own files beside it, and a directory made here belong to their owner alone (0600, 0700).
- **Present.** SQLite goes on writing into a file that was removed or replaced, and those writes are lost with the process.
  `check` compares the files at the paths with the files that were opened.
"""

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from configsvc.errors import ServiceError, Unavailable

logger = logging.getLogger(__name__)

FILE_MODE, DIRECTORY_MODE = 0o600, 0o700


class LockedFile:
    """The locked file, and the write-ahead log that SQLite keeps beside it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._wal_path = Path(f"{path}-wal")
        self._descriptor = descriptor
        self._wal: tuple[int, int] | None = None
        self._bytes = 0

    def wal_opened(self) -> None:
        """Call it when SQLite has opened its write-ahead log. SQLite keeps the log until the last connection is closed."""
        self._wal = _identity(os.stat(self._wal_path))

    def check(self) -> None:
        """Returns if SQLite's open files are those at the paths, so that a commit survives a restart.

        Raises:
            Unavailable: they are not (reason `STORAGE_GONE`). No write may be acknowledged.
        """
        opened = os.fstat(self._descriptor)
        self._require(self._path, _identity(opened))
        if opened.st_size < self._bytes:
            raise _gone(f"{self._path} was truncated")
        self._bytes = opened.st_size
        if self._wal is not None:
            self._require(self._wal_path, self._wal)

    def _require(self, path: Path, expected: tuple[int, int]) -> None:
        try:
            found = os.stat(path)
        except OSError as error:
            raise _gone(f"{path} was removed ({error.strerror})") from error
        if _identity(found) != expected:
            raise _gone(f"{path} was replaced by another file")


@contextmanager
def lock_file(path: Path) -> Iterator[LockedFile]:
    """Locks the file until the block or the process ends. Creates the file and its directory if they are missing.

    Raises:
        Unavailable: another process, or another storage in this process, owns it (reason `STORAGE_IN_USE`).
        OSError: it can't be created or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    with ExitStack() as stack:
        lock = stack.enter_context(_opened(Path(f"{path}.lock")))
        owner = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        _lock(lock, path, owner)
        # SQLite's own locks are of another kind (fcntl) and don't conflict with flock. But the system releases fcntl
        # locks when any descriptor of the file is closed, so this one is closed after SQLite's connections.
        descriptor = stack.enter_context(_opened(path))
        _lock(descriptor, path, owner)
        if _identity(os.stat(path)) != _identity(os.fstat(descriptor)):
            raise _in_use(path, "unknown")
        for suffix in ("", "-wal", "-shm"):
            _make_private(Path(f"{path}{suffix}"))
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        # The lock file is not removed at the end: otherwise two processes could lock two files of the same name.
        yield LockedFile(path, descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, owner: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(path, owner) from error


def _make_private(path: Path) -> None:
    """Removes the access of other users to a file that an earlier release or a person left readable."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if mode & ~FILE_MODE:
        try:
            os.chmod(path, FILE_MODE)
            logger.warning("%s had mode %04o and is now readable by its owner alone", path, mode)
        except PermissionError:
            logger.warning("%s has mode %04o, and belongs to another user: others may read it", path, mode)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return (found.st_dev, found.st_ino)


def _gone(what: str) -> Unavailable:
    return Unavailable(
        f"{what} while the service runs: no write is accepted, because it would be lost; stop the service, put the file"
        " back or restore it, and start again",
        "STORAGE_GONE",
    )


def _in_use(path: Path, owner: str) -> ServiceError:
    return Unavailable(
        f"{path} is in use by process {owner}: one process alone can own an embedded database",
        "STORAGE_IN_USE",
        {"path": str(path), "process": owner},
    )
