"""One of each service: started in parallel, and passed on to other processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from .envoy import Envoy
from .kafka import Kafka
from .postgres import Postgres
from .process import ServiceError
from .service import Service
from .valkey import Valkey
from .zookeeper import ZooKeeper

NAMES = ("postgres", "valkey", "kafka", "zookeeper", "envoy")
"""The order of the line of versions."""


class ServiceSet:
    """PostgreSQL, Valkey, Kafka, ZooKeeper and Envoy: each the given one, else a private one."""

    def __init__(
        self,
        *,
        postgres: Postgres,
        valkey: Valkey,
        kafka: Kafka,
        zookeeper: ZooKeeper,
        envoy: Envoy,
    ) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.kafka = kafka
        self.zookeeper = zookeeper
        self.envoy = envoy
        self.seconds: dict[str, float] = {}
        """How long each took to start, by name (NAMES)."""

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        """A set according to configsvc's variables (`DATABASE_URL` …); none is started yet."""
        return cls(
            postgres=Postgres.find(environ),
            valkey=Valkey.find(environ),
            kafka=Kafka.find(environ),
            zookeeper=ZooKeeper.find(environ),
            envoy=Envoy(),
        )

    @classmethod
    def load(cls, text: str) -> Self:
        """The running set that another process dumped (`dump`): all its services are given."""
        dumped = json.loads(text)
        environ, version = dumped["environment"], dumped["versions"]
        return cls(
            postgres=Postgres(given=environ["DATABASE_URL"], version=version["postgres"]),
            valkey=Valkey(
                given=f"{environ['REDIS_HOST']}:{environ['REDIS_PORT']}",
                password=environ["REDIS_PASSWORD"],
                version=version["valkey"],
            ),
            kafka=Kafka(given=environ["KAFKA_BOOTSTRAP_SERVERS"], version=version["kafka"]),
            zookeeper=ZooKeeper(given=environ["ZOOKEEPER_HOSTS"], version=version["zookeeper"]),
            envoy=Envoy(version=version["envoy"]),
        )

    def dump(self) -> str:
        versions = {name: self[name].version for name in NAMES}
        return json.dumps({"environment": self.environment(), "versions": versions})

    def __getitem__(self, name: str) -> Service | Envoy:
        services: dict[str, Service | Envoy] = {
            "postgres": self.postgres,
            "valkey": self.valkey,
            "kafka": self.kafka,
            "zookeeper": self.zookeeper,
            "envoy": self.envoy,
        }
        return services[name]

    def start(self, names: Iterable[str] = NAMES) -> None:
        """Starts the named services that have not been started, in parallel.

        Raises ServiceError, which says what was tried for each service that failed. Then none of
        the set is left running.
        """
        missing = [name for name in NAMES if name in set(names) and name not in self.seconds]
        if not missing:
            return
        with ThreadPoolExecutor(len(missing), "start-service") as pool:
            starts = {name: pool.submit(self._start, name) for name in missing}
        errors = [start.exception() for start in starts.values()]
        if any(errors):
            self.close()
            texts = "\n".join(str(error) for error in errors if error is not None)
            raise ServiceError(texts) from next(error for error in errors if error is not None)
        self.seconds |= {name: start.result() for name, start in starts.items()}

    def _start(self, name: str) -> float:
        began = time.monotonic()
        self[name].start()
        return time.monotonic() - began

    @property
    def versions(self) -> str:
        """The versions of the started services in one line: `PostgreSQL 15.18, Valkey 9.1.2, …`."""
        return ", ".join(self[name].version for name in NAMES if name in self.seconds)

    def environment(self) -> dict[str, str]:
        """The variables that make configsvc use this set."""
        return {
            **self.postgres.environment(),
            **self.valkey.environment(),
            **self.kafka.environment(),
            **self.zookeeper.environment(),
        }

    def close(self) -> None:
        """Ends those that are ours, in reverse order."""
        for name in reversed(NAMES):
            self[name].close()
        self.seconds.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
