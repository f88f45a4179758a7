"""The embedded database's file: one process owns it, nobody else reads it, and its going is noticed.

- **Owned.** The file itself is locked (flock on its inode), so that no other path to it (a symbolic link, a hard link)
  and no removed lock file lets a second process in. The system drops the lock when the process ends, however it ends.
  A lock file beside it says who the owner is, and keeps releases out that know only that one.
- **Private.** The file, SQLite's own beside it and a directory made here belong to their owner alone (0600, 0700).
- **There.** SQLite goes on writing into a file that was removed or replaced, and all of it is gone with the process.
  `check` compares what lies at the paths with what was opened.
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


class OwnedFile:
    """The right to use the file at `path`, which is made if it is missing, with its directory."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._log_path = Path(f"{path}-wal")
        self._descriptor = descriptor
        self._log: tuple[int, int] | None = None
        self._bytes = 0

    def remember_log(self) -> None:
        """Call it when SQLite has opened its write-ahead log, which it keeps until the last connection is closed."""
        self._log = _identity(os.stat(self._log_path))

    def check(self) -> None:
        """Returns if what SQLite has open is what lies at the paths: what is committed now is there after a restart.

        Raises:
            Unavailable: it is not, reason `STORAGE_GONE`. Nothing may be acknowledged.
        """
        opened = os.fstat(self._descriptor)
        self._same(self._path, _identity(opened))
        if opened.st_size < self._bytes:
            raise _gone(f"{self._path} was truncated")
        self._bytes = opened.st_size
        if self._log is not None:
            self._same(self._log_path, self._log)

    def _same(self, path: Path, expected: tuple[int, int]) -> None:
        try:
            found = os.stat(path)
        except OSError as error:
            raise _gone(f"{path} was removed ({error.strerror})") from error
        if _identity(found) != expected:
            raise _gone(f"{path} was replaced by another file")


@contextmanager
def owned(path: Path) -> Iterator[OwnedFile]:
    """Owns the file until the end of the block or of the process.

    Raises:
        Unavailable: another process owns it, or another storage in this one; reason `STORAGE_IN_USE`.
        OSError: it can't be made or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    with ExitStack() as stack:
        note = stack.enter_context(_opened(Path(f"{path}.lock")))
        owner = os.read(note, 32).decode("ascii", "replace").strip() or "unknown"
        _lock(note, path, owner)
        # SQLite's own locks are of another kind (fcntl), which flock does not touch. But the system drops those when
        # any descriptor of the file is closed, so this one is closed after SQLite's connections.
        descriptor = stack.enter_context(_opened(path))
        _lock(descriptor, path, owner)
        if _identity(os.stat(path)) != _identity(os.fstat(descriptor)):
            raise _in_use(path, "unknown")
        for beside in ("", "-wal", "-shm"):
            _make_private(Path(f"{path}{beside}"))
        os.ftruncate(note, 0)
        os.pwrite(note, str(os.getpid()).encode(), 0)
        # The lock file stays: if it were removed, two processes could lock two files of one name.
        yield OwnedFile(path, descriptor)


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
    """Takes the rights of others from a file that an earlier release, or somebody by hand, has left open."""
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
        f"{what} under the running service: no write is accepted, since it would be lost; stop the service, put the"
        " file back or restore it, and start again",
        "STORAGE_GONE",
    )


def _in_use(path: Path, owner: str) -> ServiceError:
    return Unavailable(
        f"{path} is in use by process {owner}: one process alone can own an embedded database",
        "STORAGE_IN_USE",
        {"path": str(path), "process": owner},
    )
