"""ZooKeeper: Apache's own jars, else Debian's, as one standalone server."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from .java import JAVA_OPTIONS, NoJarsError, jars, java
from .process import Process, ServiceError
from .service import Service

_ANSWER_SECONDS = 2.0
_DEBIAN = Path("/usr/share/java/zookeeper.jar")
"""Its manifest names the jars that it needs."""

_SETTINGS = {
    # Sessions can be as short as one second, for tests of their expiry.
    "tickTime": "500",
    "minSessionTimeout": "1000",
    "clientPortAddress": "127.0.0.1",
    # kazoo's server_version() uses `envi`.
    "4lw.commands.whitelist": "ruok,srvr,envi,mntr,cons",
    "maxClientCnxns": "0",
    "admin.enableServer": "false",
}


class ZooKeeper(Service):
    """A standalone server. Acknowledged writes survive `kill`, but not a crash of the machine."""

    name: ClassVar[str] = "ZooKeeper"

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        return cls(given=environ.get("ZOOKEEPER_HOSTS") or None)

    @property
    def address(self) -> str:
        return self.given or f"127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        return {"ZOOKEEPER_HOSTS": self.address}

    def wipe(self) -> None:
        """Deletes all data of a stopped server, as if it had a new disk."""
        assert not self.running
        shutil.rmtree(self.process.log_file.parent / "data")

    def ask(self, word: str) -> str:
        """The answer to a four-letter word. Raises OSError if there is none."""
        first = self.address.partition("/")[0].split(",")[0]
        host, _, port = first.rpartition(":")
        with socket.create_connection((host, int(port)), _ANSWER_SECONDS) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(word.encode())
            return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()

    def answers(self) -> bool:
        try:
            return "Mode: " in self.ask("srvr")
        except OSError:
            return False

    def _ask_version(self) -> str:
        match = re.search(r"Zookeeper version: ([0-9.]+)", self.ask("srvr"))
        return f"Apache ZooKeeper {match[1] if match else '(unknown version)'}"

    def _prepare(self, directory: Path) -> Process:
        class_path = _class_path()
        settings = {
            **_SETTINGS,
            "clientPort": str(self.port),
            "dataDir": str(directory / "data"),
        }
        file = directory / "zoo.cfg"
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return Process(
            self.name,
            [
                *(java(), "-Xmx128m", *JAVA_OPTIONS),
                # No fsync: tests kill processes, not machines.
                "-Dzookeeper.forceSync=no",
                *("-cp", class_path),
                *("org.apache.zookeeper.server.ZooKeeperServerMain", str(file)),
            ],
            directory=directory,
        )


def _class_path() -> str:
    try:
        return f"{jars('zookeeper')}/*"
    except NoJarsError as error:
        if _DEBIAN.is_file():
            return str(_DEBIAN)
        mend = "install Maven or Debian's package zookeeper, or name a server in ZOOKEEPER_HOSTS"
        raise ServiceError(f"ZooKeeper: {error}\n  and no {_DEBIAN}: {mend}") from error
