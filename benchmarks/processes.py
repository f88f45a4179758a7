"""The servers of a comparison: each is a process on free loopback ports, and ends with the comparison."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
from configsvc_client.v1 import health_pb2, health_pb2_grpc

from benchmarks import packages
from configsvc.gateway.config import GatewaySettings, envoy_config
from tests.engines import Envoy, Process
from tests.engines.ports import Port

READY_SECONDS = 60.0
MOST_REQUEST_BYTES = 8 << 20


@contextmanager
def service(name: str, settings: Mapping[str, str]) -> Iterator[str]:
    """Runs one worker, `configsvc serve`, with its defaults and these settings; yields its address."""
    with _place(name) as (directory, port):
        address = f"127.0.0.1:{port}"
        environ = {
            "SERVICE_INSTANCE_ID": name,
            "SERVICE_REGISTRY_ENABLED": "false",
            "SQLITE_PATH": str(directory / "configsvc.db"),
            **settings,
        }
        command = [sys.executable, "-m", "configsvc", "serve", "--listen", address]
        process = Process(name, command, directory=directory, environ=environ)
        with _running(process, lambda: _service_is_ready(address)):
            yield address


@contextmanager
def gateway(upstream: str) -> Iterator[str]:
    """Runs Envoy as `configsvc up` does, in front of one server; yields its address."""
    with _place("envoy") as (directory, port):
        address, admin = f"127.0.0.1:{port}", str(directory / "admin.sock")
        file = directory / "envoy.json"
        settings = GatewaySettings("127.0.0.1", port, admin, [upstream], MOST_REQUEST_BYTES)
        file.write_text(json.dumps(envoy_config(settings)))
        command = [Envoy().path, "-c", str(file), "--disable-hot-restart", "--log-level", "error"]
        process = Process("Envoy", command, directory=directory)
        with _running(process, lambda: _answers(f"http://{address}/ready")):
            yield address


@contextmanager
def etcd() -> Iterator[str]:
    """Runs one etcd server with its defaults (each write is flushed before it is acknowledged); yields its address."""
    program = packages.etcd()
    with _place("etcd") as (directory, port), Port() as peers:
        client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers.number}"
        command = [
            *(program.path, "--name", "one", "--data-dir", str(directory / "data"), "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
        ]
        process = Process("etcd", command, directory=directory, environ=program.environment)
        with _running(process, lambda: _answers(f"{client}/health")):
            yield f"127.0.0.1:{port}"


@contextmanager
def _place(name: str) -> Iterator[tuple[Path, int]]:
    """A directory and a port."""
    with tempfile.TemporaryDirectory(prefix=f"configsvc-bench-{name}-") as directory, Port() as port:
        yield Path(directory), port.number


@contextmanager
def _running(process: Process, is_ready: Callable[[], bool]) -> Iterator[None]:
    try:
        process.start(is_ready, timeout_seconds=READY_SECONDS)
        yield
    finally:
        process.stop()


def _service_is_ready(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthServiceStub(channel).GetReadiness(
                health_pb2.GetReadinessRequest(), timeout=1
            )
        except grpc.RpcError:
            return False
    return answer.health.status == "up"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
