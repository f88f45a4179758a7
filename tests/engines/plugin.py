"""For pytest: real services, started once per run, and the fixtures that give them to tests.

Load it with `pytest_plugins = ["tests.engines.plugin"]` in the topmost conftest, or `-p`.

What starts, and when. In one process: the services whose fixtures the collected tests use, after
collection. With pytest-xdist: all of them, in the controller, before it starts the workers, which
find them through one variable in their environment. `--no-services` starts none, and skips each
test that needs one. The variables of configsvc itself (`DATABASE_URL` …) are read, to use the services
that they name, and never set: a test of the embedded defaults must not see them.

Shared fixtures, for tests that leave the service as they found it:

    services          session    a ServiceSet: addresses and versions; none can be killed or paused
    postgres_url      function   a fresh empty database, dropped afterwards
    redis_address     function   an empty server (or, if REDIS_HOST is given, logical database)
                                 of this worker's own
    kafka_bootstrap   session    the bootstrap servers
    topic             function   a unique name; not created, deleted afterwards
    zookeeper_hosts   session    the connect string, with no chroot
    chroot            function   a unique base path; not created

Factories, for tests of faults; they return a started service with kill, pause and restart,
which is closed after the module:

    private_postgres(durable=True)  private_valkey()  private_kafka()  private_zookeeper()
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final, Protocol

import pytest

from .kafka import Kafka
from .postgres import Postgres
from .process import ServiceError
from .service_set import NAMES, ServiceSet
from .valkey import DATABASES, Valkey
from .zookeeper import ZooKeeper

_SHARED = "CONFIGSVC_TEST_SERVICES"
"""Passes the started services from a controller to its workers (ServiceSet.dump)."""

_NEEDS: Final = {
    "services": NAMES,
    "postgres_url": ("postgres",),
    "redis_address": ("valkey",),
    "kafka_bootstrap": ("kafka",),
    "topic": ("kafka",),
    "zookeeper_hosts": ("zookeeper",),
    "chroot": ("zookeeper",),
}
"""The services behind each shared fixture."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis or Valkey that only this test uses until it ends."""

    host: str
    port: int
    password: str
    database: int
    """Not 0 only if the server was given by REDIS_HOST."""

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{self.host}:{self.port}/{self.database}"

    def environment(self) -> dict[str, str]:
        return {
            "REDIS_HOST": self.host,
            "REDIS_PORT": str(self.port),
            "REDIS_PASSWORD": self.password,
        }


class PrivatePostgres(Protocol):
    def __call__(self, *, durable: bool = True) -> Postgres: ...


class PrivateKafka(Protocol):
    def __call__(self, *, settings: Mapping[str, str] | None = None, advertised_port: int | None = None) -> Kafka: ...


class _Run:
    """The services of this process: its own, or those of its controller."""

    def __init__(self, *, refused: bool) -> None:
        self.refused = refused
        shared = os.environ.get(_SHARED)
        self.is_owner = shared is None
        self.set = ServiceSet.find(os.environ) if shared is None else ServiceSet.load(shared)
        self.shown = ""

    def use(self, names: Iterable[str]) -> ServiceSet:
        """The set, with these services started. Skips the test if the run has `--no-services`."""
        if self.refused:
            pytest.skip(f"needs {', '.join(names)}: run without --no-services")
        self.set.start(names)
        return self.set

    def start_or_exit(self, names: Iterable[str]) -> None:
        if self.refused:
            return
        try:
            self.set.start(names)
        except ServiceError as error:
            pytest.exit(f"a service is missing (--no-services does without)\n{error}", 1)

    def share(self) -> None:
        os.environ[_SHARED] = self.set.dump()

    def close(self) -> None:
        self.set.close()
        if self.is_owner:
            os.environ.pop(_SHARED, None)

    def line(self) -> str:
        """The services of the run, once after each change; otherwise empty."""
        line = f"services: {self.set.versions or 'none started'}"
        if self.refused:
            line = "services: NONE (--no-services): tests that need one are SKIPPED"
        if line == self.shown:
            return ""
        self.shown = line
        return line


_RUN = pytest.StashKey[_Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-services",
        action="store_true",
        help="start no PostgreSQL, Valkey, Kafka or ZooKeeper; skip the tests that need one",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RUN] = _Run(refused=bool(config.getoption("--no-services", default=False)))


def pytest_unconfigure(config: pytest.Config) -> None:
    if _RUN in config.stash:
        config.stash[_RUN].close()


def _start_for_workers(config: pytest.Config) -> None:
    """Starts all services in the controller, before it starts its workers."""
    run = config.stash[_RUN]
    is_controller = run.is_owner and config.getoption("dist", "no") != "no"
    if is_controller and not run.refused and not config.getoption("collectonly"):
        run.start_or_exit(NAMES)
        run.share()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    _start_for_workers(session.config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    # The terminal's own sessionstart asks for it, and may run before the one above.
    _start_for_workers(config)
    run = config.stash[_RUN]
    line = run.line() if run.refused or run.set.versions else ""
    return [line] if line else []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    run = config.stash[_RUN]
    if config.getoption("collectonly") or not run.is_owner:
        return
    fixtures = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    run.start_or_exit({service for name in fixtures & _NEEDS.keys() for service in _NEEDS[name]})


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    run = config.stash[_RUN]
    line = run.line() if run.set.versions else ""
    return [line] if line else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Shows the line if it was not shown before: in a quiet run, or if a test started one more service."""
    run = config.stash[_RUN]
    line = run.line() if run.refused or run.set.versions else ""
    if line:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> ServiceSet:
    """All services of the run. They are shared, so none can be killed or paused through this fixture."""
    shared = ServiceSet.load(pytestconfig.stash[_RUN].use(NAMES).dump())
    shared.start()
    return shared


@pytest.fixture
def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a new, empty database. It is dropped afterwards, even if clients are connected."""
    with pytestconfig.stash[_RUN].use(["postgres"]).postgres.database() as url:
        yield url


@pytest.fixture(scope="session")
def _worker_redis(pytestconfig: pytest.Config) -> Iterator[tuple[Valkey, int]]:
    """A Redis or Valkey, and the number of a logical database, that no other worker uses."""
    shared = pytestconfig.stash[_RUN].use(["valkey"]).valkey
    worker_id = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1 …
    if os.environ.get("REDIS_HOST"):
        # The server of a person: use databases from the last one down, and only empty ones.
        worker = int(worker_id.removeprefix("gw")) if worker_id else 0
        database = DATABASES - 1 - worker % (DATABASES - 1)
        with closing(shared.client(database)) as client:
            if client.dbsize():
                pytest.fail(f"{shared.given}: database {database} is not empty; tests clear it")
        yield shared, database
    elif worker_id is None:
        yield shared, 0
    else:
        # FLUSHALL, pub/sub and tracking ignore databases, so each worker gets its own server (5 MB).
        with Valkey() as own:
            yield own, 0


@pytest.fixture
def redis_address(_worker_redis: tuple[Valkey, int]) -> Iterator[RedisAddress]:
    """An empty Redis or Valkey; it is flushed afterwards."""
    server, database = _worker_redis
    with closing(server.client(database)) as client:
        client.flushdb()
        host, _, port = server.address.rpartition(":")
        yield RedisAddress(host, int(port), server.password, database)
        client.flushdb()


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config) -> str:
    """The value for KAFKA_BOOTSTRAP_SERVERS."""
    return pytestconfig.stash[_RUN].use(["kafka"]).kafka.address


@pytest.fixture
def topic(pytestconfig: pytest.Config) -> Iterator[str]:
    """A unique topic name. Not created; deleted afterwards if the test created it."""
    kafka = pytestconfig.stash[_RUN].use(["kafka"]).kafka
    name = f"configsvc-test-{secrets.token_hex(6)}"
    yield name
    kafka.delete_topic(name)


@pytest.fixture(scope="session")
def zookeeper_hosts(pytestconfig: pytest.Config) -> str:
    """The value for ZOOKEEPER_HOSTS."""
    return pytestconfig.stash[_RUN].use(["zookeeper"]).zookeeper.address


@pytest.fixture
def chroot(pytestconfig: pytest.Config) -> str:
    """A unique base path for ZOOKEEPER_BASE_PATH. Neither created nor deleted."""
    pytestconfig.stash[_RUN].use(["zookeeper"])
    return f"/configsvc-test-{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def _private(pytestconfig: pytest.Config) -> Iterator[ExitStack]:
    if pytestconfig.stash[_RUN].refused:
        pytest.skip("needs a private service: run without --no-services")
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def private_postgres(_private: ExitStack) -> PrivatePostgres:
    """Starts a PostgreSQL for this module; durable by default."""

    def start(*, durable: bool = True) -> Postgres:
        return _private.enter_context(Postgres(durable=durable))

    return start


@pytest.fixture(scope="module")
def private_valkey(_private: ExitStack) -> Callable[[], Valkey]:
    """Starts a Valkey for this module."""
    return lambda: _private.enter_context(Valkey())


@pytest.fixture(scope="module")
def private_kafka(_private: ExitStack) -> PrivateKafka:
    """Starts a Kafka for this module, optionally with more settings or behind a proxy."""

    def start(*, settings: Mapping[str, str] | None = None, advertised_port: int | None = None) -> Kafka:
        return _private.enter_context(Kafka(settings=settings, advertised_port=advertised_port))

    return start


@pytest.fixture(scope="module")
def private_zookeeper(_private: ExitStack) -> Callable[[], ZooKeeper]:
    """Starts a ZooKeeper for this module."""
    return lambda: _private.enter_context(ZooKeeper())
