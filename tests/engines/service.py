"""What every service of the harness has in common.

A service is either ours (a private instance with a port and a directory of its own) or given (an
address in the environment): then it is only asked for its version, and can't be killed or paused.

    with Postgres(durable=True) as postgres:
        url = postgres.create_database()
        postgres.kill()
        postgres.restart()      # same port, same data

`start` to `stop` may be repeated, on the same port and data; `close` ends it for good.
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
"""A JVM takes 3 s on two idle cores; a busy machine is allowed much more."""


class NotOursError(ServiceError):
    """The service was given by an address: its process can't be killed, paused or restarted."""


class Service(ABC):
    """One service. Private unless `given` names an address; nothing happens before `start`."""

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
        """The service that `environ` gives an address of, else a private one; not started."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients reach it, in the form of its own variable in the environment."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The variables that make configsvc use it."""

    @abstractmethod
    def _prepare(self, directory: Path) -> Process:
        """Set up a private instance in its empty directory; the process to start."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves requests now. Must return within a second or so."""

    @abstractmethod
    def _ask_version(self) -> str:
        """Name and version as the running service reports them."""

    @property
    def version(self) -> str:
        """Name and version as the running service reported them, such as `PostgreSQL 15.18`."""
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
        """Start it and wait until it answers. Raises ServiceError saying what was tried."""
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
        """Whom a private instance runs as."""
        return own_user()

    def stop(self) -> None:
        """Stop it in good order; its port and data stay. Nothing happens to a given one."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        self.process.kill()

    def pause(self) -> None:
        """SIGSTOP to all of its processes: connections stay, nothing is answered."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT to all of its processes."""
        self.process.resume()

    def restart(self) -> None:
        """Start it again on the same port and data, whether it was killed, stopped or runs."""
        process = self.process
        process.stop()
        process.start(self.answers, timeout_seconds=_READY_SECONDS)

    def close(self) -> None:
        """End it, and remove its data. Nothing happens to a given one."""
        if self._process is not None:
            self._end(self._process)
            self._process = None
        if self._remove is not None:
            self._remove()
        if self._port is not None:
            self._port.release()
            self._port = None

    def _end(self, process: Process) -> None:
        """End the process of an instance whose data nobody wants any more."""
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
    """A new directory, owned by `user` and one that it can reach."""
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
