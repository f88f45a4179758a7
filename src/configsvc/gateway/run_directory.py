"""The directory of one run: its sockets and Envoy's configuration, in the system's temporary directory.

A run that ends removes its own directory. A run that is killed can't, so the next run does. Each directory has a file that
its run keeps locked (flock); the system drops the lock when the process ends, however it ends. A directory without that
file belongs to another program.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "configsvc-"
LOCK = "run.lock"


@contextmanager
def run_directory() -> Iterator[Path]:
    """A new directory that no other user can read, removed at the end. First removes those of runs that were killed."""
    base = Path(tempfile.gettempdir())
    for file in sorted(base.glob(f"{PREFIX}*/{LOCK}")):
        _remove_if_unlocked(file)
    directory, lock = _locked(base)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _locked(base: Path) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        # Another run that starts at this moment may find the file before it is locked, and remove the directory.
        with contextlib.suppress(OSError):
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, directory / LOCK):
                return directory, lock
            os.close(lock)


def _remove_if_unlocked(file: Path) -> None:
    try:
        lock = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # It belongs to another user, or was just removed.
        return
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(lock, file):
            shutil.rmtree(file.parent, ignore_errors=True)
            logger.info("removed %s, left by a run that was killed", file.parent)
    except BlockingIOError:
        # Its run is alive.
        return
    finally:
        os.close(lock)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except OSError:
        return False
