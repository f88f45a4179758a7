"""The servers of a comparison: each is a process on free loopback ports, and ends with the comparison."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from configsvc_client.v1 import health_pb2, health_pb2_grpc

from benchmarks.peers import Program
from benchmarks.placement import Placement
from configsvc.gateway.config import GatewaySettings, envoy_config
from tests.engines import Envoy, Process
from tests.engines.ports import Port

# Eureka's server takes 40 s on a busy machine.
READY_SECONDS = 180.0
MOST_REQUEST_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `socket`: where Envoy reaches it. `start_seconds`: from its start until it was ready."""

    address: str
    pid: int
    start_seconds: float
    socket: str = ""

    @property
    def memory_bytes(self) -> int:
        """Its resident memory now, without what other processes share."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return sum(
            int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))
        )


@contextmanager
def service(name: str, placement: Placement, settings: Mapping[str, str]) -> Iterator[Server]:
    """Runs one worker, `configsvc serve`, with its defaults behind Envoy and these settings."""
    with _place(name) as (directory, port):
        address, socket = f"127.0.0.1:{port}", f"unix:{directory / 'worker.sock'}"
        environ = {
            "SERVICE_INSTANCE_ID": name,
            "SERVICE_REGISTRY_ENABLED": "false",
            "SQLITE_PATH": str(directory / "configsvc.db"),
            **engine_of_workers(),
            **settings,
        }
        command = [sys.executable, "-m", "configsvc", "serve", "--listen", address, "--listen", socket]
        with _running(name, command, placement, directory, environ, lambda: _service_is_ready(address)) as started:
            yield Server(address, *started, socket)


@contextmanager
def bare(placement: Placement) -> Iterator[Server]:
    """Runs the engine of the workers with empty methods (`benchmarks.bare`)."""
    with _place("bare") as (directory, port):
        address, socket = f"127.0.0.1:{port}", f"unix:{directory / 'worker.sock'}"
        command = [sys.executable, "-m", "benchmarks.bare", address, socket]
        environ = {**engine_of_workers(), "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        with _running("bare", command, placement, directory, environ, lambda: _accepts(address)) as started:
            yield Server(address, *started, socket)


@contextmanager
def gateway(placement: Placement, upstream: str) -> Iterator[Server]:
    """Runs Envoy as `configsvc up` does, in front of one server."""
    with _place("envoy") as (directory, port):
        address, admin = f"127.0.0.1:{port}", str(directory / "admin.sock")
        file = directory / "envoy.json"
        settings = GatewaySettings("127.0.0.1", port, admin, [upstream], MOST_REQUEST_BYTES)
        file.write_text(json.dumps(envoy_config(settings)))
        command = [Envoy().path, "-c", str(file), "--disable-hot-restart", "--log-level", "error"]
        with _running(
            "Envoy", command, placement, directory, {}, lambda: _answers(f"http://{address}/ready")
        ) as started:
            yield Server(address, *started)


@contextmanager
def etcd(program: Program, placement: Placement) -> Iterator[Server]:
    """Runs one etcd server with its defaults: each write is flushed before it is acknowledged."""
    with _place("etcd") as (directory, port), Port() as peers:
        client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers.number}"
        command = [
            *(*program.command, "--name", "one", "--data-dir", str(directory / "data"), "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}"),
        ]
        with _running("etcd", command, placement, directory, {}, lambda: _answers(f"{client}/health")) as started:
            yield Server(f"127.0.0.1:{port}", *started)


@contextmanager
def unleash_edge(program: Program, placement: Placement, flags: Mapping[str, object], token: str) -> Iterator[Server]:
    """Runs Unleash's flag server with the flags of a file, without the server that it usually follows.

    `token` is for evaluations. It starts only if there is a token for clients, too.
    """
    with _place("unleash-edge") as (directory, port):
        file = directory / "flags.json"
        file.write_text(json.dumps(flags))
        command = [
            *(*program.command, "--interface", "127.0.0.1", "--port", str(port), "offline"),
            *("--bootstrap-file", str(file), "--frontend-tokens", token, "--client-tokens", "*:other.secret"),
        ]
        url = f"http://127.0.0.1:{port}/internal-backstage/health"
        with _running("unleash-edge", command, placement, directory, {}, lambda: _answers(url)) as started:
            yield Server(f"127.0.0.1:{port}", *started)


@contextmanager
def eureka(program: Program, placement: Placement) -> Iterator[Server]:
    """Runs Eureka's server alone, with its defaults."""
    with _place("eureka") as (directory, port):
        command = [
            *(*program.command, f"--server.port={port}", "--server.address=127.0.0.1"),
            # Otherwise it closes each connection after a hundred requests.
            "--server.tomcat.max-keep-alive-requests=-1",
            *("--eureka.client.register-with-eureka=false", "--eureka.client.fetch-registry=false"),
            "--logging.level.root=ERROR",
        ]
        url = f"http://127.0.0.1:{port}/eureka/apps"
        with _running("Eureka", command, placement, directory, {}, lambda: _answers(url)) as started:
            yield Server(f"127.0.0.1:{port}", *started)


@contextmanager
def _place(name: str) -> Iterator[tuple[Path, int]]:
    """A directory and a port."""
    with tempfile.TemporaryDirectory(prefix=f"configsvc-bench-{name}-") as directory, Port() as port:
        yield Path(directory), port.number


@contextmanager
def _running(
    name: str,
    command: Sequence[str],
    placement: Placement,
    directory: Path,
    environ: Mapping[str, str],
    is_ready: Callable[[], bool],
) -> Iterator[tuple[int, float]]:
    """Yields the process id, and the seconds until it was ready."""
    process = Process(name, [*placement.on_server(), *command], directory=directory, environ=environ)
    try:
        began = time.perf_counter()
        process.start(is_ready, timeout_seconds=READY_SECONDS)
        # `taskset` becomes the program that it starts, so the process id is the server's.
        yield process.pid, time.perf_counter() - began
    finally:
        process.stop()


def engine_of_workers() -> dict[str, str]:
    """The engine that workers behind Envoy use, also for a worker that listens on a port."""
    return {"GRPC_ENGINE": os.environ.get("GRPC_ENGINE", "native")}


def _service_is_ready(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthServiceStub(channel).GetReadiness(
                health_pb2.GetReadinessRequest(), timeout=1
            )
        except grpc.RpcError:
            return False
    return answer.health.status == "up"


def _accepts(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
    return True


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
