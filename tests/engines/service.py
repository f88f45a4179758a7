"""The interface of every service of the harness.

A service is either ours (a private instance with its own port and directory) or given (an address in
the environment). A given service is only asked for its version, and can't be killed or paused.

    with Postgres(durable=True) as postgres:
        url = postgres.create_database()
        postgres.kill()
        postgres.restart()      # same port, same data

`start` and `stop` can be repeated, on the same port and data; `close` ends it for good.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from .ports import Port
from .process import Process, ServiceError, User, own_user

_READY_SECONDS = 60.0
"""A JVM takes 3 s on two idle cores; a busy machine may take much longer."""


class NotOursError(ServiceError):
    """The service was given by an address: its process can't be killed, paused or restarted."""


class Service(ABC):
    """One service. It is private unless `given` is an address. Nothing runs before `start`."""

    name: ClassVar[str]

    def __init__(self, *, given: str | None = None, version: str | None = None) -> None:
        self.given = given
        self._version = version
        self._process: Process | None = None
        self._port: Port | None = None
        self._remove: weakref.finalize[[str, bool], Service] | None = None

    @classmethod
    @abstractmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        """The service whose address is in `environ`, else a private one; not started."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The address for clients, in the form of its environment variable."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The variables that make configsvc use it."""

    @abstractmethod
    def _prepare(self, directory: Path) -> Process:
        """Sets up a private instance in its empty directory; returns the process to start."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves requests now. Must return within about a second."""

    @abstractmethod
    def _ask_version(self) -> str:
        """Name and version as the running service reports them."""

    @property
    def version(self) -> str:
        """Name and version as the running service reported them, for example `PostgreSQL 15.18`."""
        if self._version is None:
            raise ServiceError(f"{self.name} has not been started")
        return self._version

    @property
    def ours(self) -> bool:
        return self.given is None

    @property
    def port(self) -> int:
        """The loopback port of a private instance."""
        if self._port is None:
            raise ServiceError(f"{self.name} has no port of its own")
        return self._port.number

    @property
    def process(self) -> Process:
        if self.given is not None:
            raise NotOursError(f"{self.name} is the one given as {self.given}: its process isn't ours")
        if self._process is None:
            raise ServiceError(f"{self.name} has not been started")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Starts it and waits until it answers. Raises ServiceError, which says what was tried."""
        if self.given is not None:
            if not self.answers():
                raise ServiceError(f"{self.name}: {self.given} (given) does not answer")
        else:
            if self._process is None:
                self._set_up()
            self.process.start(self.answers, timeout_seconds=_READY_SECONDS)
        if self._version is None:
            self._version = self._ask_version()

    def _set_up(self) -> None:
        user = self._user()
        directory = directory_for(user, self.name.lower())
        self._remove = weakref.finalize(self, shutil.rmtree, str(directory), True)
        self._port = Port()
        try:
            self._process = self._prepare(directory)
        except BaseException:
            self.close()
            raise

    def _user(self) -> User:
        """The user that a private instance runs as."""
        return own_user()

    def stop(self) -> None:
        """Stops it gracefully; its port and data stay. Does nothing to a given service."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """Sends SIGKILL to all its processes."""
        self.process.kill()

    def pause(self) -> None:
        """Sends SIGSTOP to all its processes: connections stay, and nothing is answered."""
        self.process.pause()

    def resume(self) -> None:
        """Sends SIGCONT to all its processes."""
        self.process.resume()

    def restart(self) -> None:
        """Starts it on the same port and data, whether it was killed, was stopped or is running."""
        process = self.process
        process.stop()
        process.start(self.answers, timeout_seconds=_READY_SECONDS)

    def close(self) -> None:
        """Ends it and removes its data. Does nothing to a given service."""
        if self._process is not None:
            self._end(self._process)
            self._process = None
        if self._remove is not None:
            self._remove()
        if self._port is not None:
            self._port.release()
            self._port = None

    def _end(self, process: Process) -> None:
        """Ends the process of an instance whose data is no longer needed."""
        process.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def directory_for(user: User, name: str) -> Path:
    """A new directory that `user` owns and can reach."""
    bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    for base in bases:
        if base.is_dir() and _reachable(base.resolve(), user):
            directory = Path(tempfile.mkdtemp(prefix=f"configsvc-{name}-", dir=base.resolve()))
            if user.uid != os.geteuid():
                os.chown(directory, user.uid, user.gid)
            return directory
    tried = ", ".join(str(base) for base in bases)
    raise ServiceError(f"{name}: user {user.name} can reach no directory for its data: {tried}")


def _reachable(directory: Path, user: User) -> bool:
    if user.uid == os.geteuid():
        return os.access(directory, os.W_OK | os.X_OK)
    return all(step.stat().st_mode & 0o001 for step in (directory, *directory.parents))
