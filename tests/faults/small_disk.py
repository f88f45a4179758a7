"""Disks that a test can fill, for a root user and for any other.

`Tmpfs` is a small file system of its own, in namespaces of its own, so that nobody needs a right to mount one.
`SizeLimit` is for where the kernel refuses those, and for a fault of its own kind: the system says "file too large", as
it says "quota exceeded" on a disk that is shared, and SQLite calls both an I/O error.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

# Room for what a test writes, and soon full.
TMPFS_MEGABYTES = 8
FILLING_BYTES = 4_096

SERVE = (sys.executable, "-m", "configsvc", "serve", "--listen")


class Disk(Protocol):
    """A directory whose files can be kept from growing."""

    @property
    def directory(self) -> Path:
        """Where it is, for a process that `command` runs."""
        ...

    @property
    def command(self) -> Sequence[str]:
        """What runs a replica on it, before its address."""
        ...

    def fill(self, pid: int) -> None:
        """No file of the process can grow any more."""
        ...

    def free(self, pid: int) -> None:
        """There is room again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tmpfs:
    """A file system of a few megabytes. It lives as long as the process that holds its namespaces, which is its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        mount = f'mount -t tmpfs -o size={TMPFS_MEGABYTES}m none "$0" && echo mounted && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(self.directory)],
            # It ends with its input, so with the test, however that ends.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            self.__exit__(None, None, None)
            raise OSError("no file system of its own can be had here")
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
        # With the ids that it has: to set others is refused to all but root.
        return ("nsenter", f"--target={self._holder.pid}", "--user", "--mount", "--preserve-credentials", *SERVE)

    @property
    def seen_from_here(self) -> Path:
        """The same directory for this process, which is outside."""
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
    """The size of files that a process writes is limited (`RLIMIT_FSIZE`), while it runs."""

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
        """See `Disk`. Less than any of SQLite's files has already."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILLING_BYTES, resource.RLIM_INFINITY))

    def free(self, pid: int) -> None:
        """See `Disk`."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def small_disk(directory: Path) -> Disk:
    """A real small file system; where the kernel lets this user have none, the next best."""
    try:
        with Tmpfs(directory / "probe"):
            pass
    except OSError:
        return SizeLimit(directory / "limited")
    return Tmpfs(directory / "disk")
