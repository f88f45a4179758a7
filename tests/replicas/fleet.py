"""Several replicas as separate processes on one set of real backends, for tests that kill, pause and stop them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2_grpc,
    health_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from configsvc_client.v1 import health_pb2 as service_health_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from tests.engines.ports import Port

# Reached only if a test fails.
PATIENCE_SECONDS = 60.0
ENVIRONMENT = "test"

# Short intervals, so that tests wait briefly.
QUICK = {
    "ZOOKEEPER_SESSION_TIMEOUT": "3",
    "ZOOKEEPER_CONNECTION_TIMEOUT": "3",
    "SERVICE_HEALTH_CHECK_INTERVAL": "1",
    "SHUTDOWN_GRACE_SECONDS": "3",
    "SERVICE_REGISTRY_ENABLED": "false",
}


def eventually(condition: Callable[[], object], what: str, within_seconds: float = PATIENCE_SECONDS) -> None:
    """Returns when the condition holds. RpcErrors count as False."""
    deadline = time.monotonic() + within_seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = condition()
            if last:
                return
        except grpc.RpcError as error:
            last = f"{error.code()}: {error.details()}"
        time.sleep(0.02)
    raise AssertionError(f"not within {within_seconds:g} s: {what} ({last})")


class Replica:
    """One server process, and typed stubs to it."""

    # The command that runs it, without the address.
    command: Sequence[str] = (sys.executable, "-m", "configsvc", "serve", "--listen")

    def __init__(self, name: str, directory: Path, settings: Mapping[str, str], port: int) -> None:
        self.name = name
        self.address = f"127.0.0.1:{port}"
        self.log = directory / f"{name}.log"
        inherited = {
            key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR", "GRPC_ENGINE") if key in os.environ
        }
        self._environment = {**inherited, **QUICK, **settings, "SERVICE_INSTANCE_ID": name}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.channel = grpc.insecure_channel(
            self.address,
            # Reconnect to a restarted replica at once.
            options=(("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)),
        )
        self.configs = config_pb2_grpc.ConfigServiceStub(self.channel)
        self.flags = flag_pb2_grpc.FlagServiceStub(self.channel)
        self.registry = registry_pb2_grpc.RegistryServiceStub(self.channel)
        self.changes = change_pb2_grpc.ChangeServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthServiceStub(self.channel)

    def start(self) -> None:
        """Starts the process; poll `answers` and `is_ready` for when it serves."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.command, self.address],
                env=self._environment,
                cwd=self._directory,
                stdout=output,
                stderr=output,
            )

    def started(self) -> None:
        """Starts the process and waits until it answers."""
        self.start()
        eventually(self.answers, f"{self.name} answers; its log: {self.log}")

    def answers(self) -> bool:
        self.health.GetLiveness(service_health_pb2.GetLivenessRequest(), timeout=2)
        return True

    def is_ready(self) -> bool:
        health = self.health.GetReadiness(service_health_pb2.GetReadinessRequest(), timeout=3).health
        return health.status in ("up", "degraded")

    def component(self, name: str) -> service_health_pb2.Component:
        health = self.health.GetHealth(service_health_pb2.GetHealthRequest(), timeout=5).health
        (match,) = [component for component in health.components if component.name == name]
        return match

    def failures(self) -> list[str]:
        """The failures that its health reports; empty if it is up."""
        health = self.health.GetHealth(service_health_pb2.GetHealthRequest(), timeout=5).health
        return [f"{part.name}: {part.detail}" for part in health.components if part.state != "up"]

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.ended()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> int:
        """Stops it as a process manager would; returns its exit status."""
        self._signal(signal.SIGTERM)
        return self.ended()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ended(self) -> int:
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        self.channel.close()
        if self.runs:
            self.resume()
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    # The calls that most tests make.

    def put(self, key: str, value: Any, timeout: float = 15) -> config_pb2.UpdateConfigResponse:
        """Creates or updates a configuration."""
        return self.configs.UpdateConfig(
            config_pb2.UpdateConfigRequest(
                key=key, environment=ENVIRONMENT, value=ParseDict(value, Value()), allow_missing=True
            ),
            timeout=timeout,
        )

    def get(self, key: str, min_revision: int = 0, timeout: float = 15) -> config_pb2.GetConfigResponse:
        return self.configs.GetConfig(
            config_pb2.GetConfigRequest(key=key, environment=ENVIRONMENT, min_revision=min_revision), timeout=timeout
        )

    def value(self, key: str) -> object:
        """The value of a configuration: a text or a number."""
        value = self.get(key).config.value
        return value.string_value if value.WhichOneof("kind") == "string_value" else value.number_value

    def trail(self, **filters: Any) -> list[change_pb2.Change]:
        """The audit trail, oldest first."""
        changes: list[change_pb2.Change] = []
        token = ""
        while True:
            request = change_pb2.ListChangesRequest(page_size=1_000, page_token=token, **filters)
            page = self.changes.ListChanges(request, timeout=15)
            changes += page.changes
            token = page.next_page_token
            if not token:
                return changes[::-1]

    def register(self, service: str, instance_id: str, ttl: int = 30) -> registry_pb2.Instance:
        return self.registry.RegisterInstance(
            registry_pb2.RegisterInstanceRequest(
                service_name=service,
                instance_id=instance_id,
                service_url=f"http://127.0.0.1:9/{instance_id}",
                lease_ttl_seconds=ttl,
            ),
            timeout=15,
        ).instance

    def heartbeat(self, service: str, instance_id: str) -> None:
        self.registry.Heartbeat(
            registry_pb2.HeartbeatRequest(service_name=service, instance_id=instance_id), timeout=15
        )

    def discover(self, service: str) -> registry_pb2.DiscoverInstancesResponse:
        return self.registry.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name=service), timeout=15)

    def discovered(self, service: str) -> list[str]:
        return [instance.instance_id for instance in self.discover(service).instances]


@contextmanager
def fleet(directory: Path, settings: Mapping[str, str], *names: str) -> Iterator[list[Replica]]:
    """Replicas that were started at the same time and are ready."""
    with ExitStack() as stack:
        replicas = []
        for name in names:
            port = stack.enter_context(Port())
            replica = Replica(name, directory, settings, port.number)
            stack.callback(replica.close)
            replicas.append(replica)
        for replica in replicas:
            replica.start()
        for replica in replicas:
            eventually(replica.is_ready, f"{replica.name} is ready; its log: {replica.log}")
        yield replicas
