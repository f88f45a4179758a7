"""Disks that a test can fill, as root or as another user.

`Tmpfs` is a small file system in its own namespaces, so that no right to mount is needed. `SizeLimit` is used if the
kernel refuses namespaces. It is also a different fault: the system reports "file too large" (like "quota exceeded" on a
shared disk), and SQLite reports both as an I/O error.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

# Enough for what a test writes first, and soon full.
TMPFS_MEGABYTES = 8
FILLING_BYTES = 4_096

SERVE = (sys.executable, "-m", "configsvc", "serve", "--listen")


class Disk(Protocol):
    """A directory whose files can be prevented from growing."""

    @property
    def directory(self) -> Path:
        """The directory as a process sees it that `command` runs."""
        ...

    @property
    def command(self) -> Sequence[str]:
        """The command that runs a replica on this disk, without the replica's address."""
        ...

    def fill(self, pid: int) -> None:
        """Prevents the files of the process from growing."""
        ...

    def free(self, pid: int) -> None:
        """Makes space again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tmpfs:
    """A file system of a few megabytes. It exists as long as the process that holds its namespaces."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        mount = f'mount -t tmpfs -o size={TMPFS_MEGABYTES}m none "$0" && echo mounted && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(self.directory)],
            # `cat` ends with its input: it ends with the test process, also after kill -9.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            self.__exit__(None, None, None)
            raise OSError("this kernel allows no private file system")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._holder is not None:
            self._holder.communicate()

    @property
    def command(self) -> Sequence[str]:
        """See `Disk`."""
        assert self._holder is not None
        # It keeps the current ids: only root can set others.
        return ("nsenter", f"--target={self._holder.pid}", "--user", "--mount", "--preserve-credentials", *SERVE)

    @property
    def seen_from_here(self) -> Path:
        """The same directory as seen from this process, which is outside the namespaces."""
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/root{self.directory}")

    def fill(self, pid: int) -> None:
        """See `Disk`."""
        with (self.seen_from_here / "filling").open("ab", buffering=0) as filling:
            try:
                while True:
                    filling.write(bytes(FILLING_BYTES))
            except OSError:
                assert os.statvfs(self.seen_from_here).f_bavail == 0

    def free(self, pid: int) -> None:
        """See `Disk`."""
        (self.seen_from_here / "filling").unlink()


class SizeLimit:
    """Limits the size of the files that a running process writes (`RLIMIT_FSIZE`)."""

    command = SERVE

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def fill(self, pid: int) -> None:
        """Sets a limit below the size of each of SQLite's files."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILLING_BYTES, resource.RLIM_INFINITY))

    def free(self, pid: int) -> None:
        """See `Disk`."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def small_disk(directory: Path) -> Disk:
    """A real small file system, or a size limit if the kernel does not allow one to this user."""
    try:
        with Tmpfs(directory / "probe"):
            pass
    except OSError:
        return SizeLimit(directory / "limited")
    return Tmpfs(directory / "disk")
