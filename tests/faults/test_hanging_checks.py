"""Hundreds of health check URLs hang: instances of other services are still checked in time."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from configsvc_client.v1 import registry_pb2

from tests.e2e.http_target import HttpTarget
from tests.engines.ports import Port
from tests.replicas.fleet import Replica, eventually

# A check that hangs takes as long as four of the five seconds of a lease.
SETTINGS = {"SERVICE_HEALTH_CHECK_INTERVAL": "1", "HEALTH_CHECK_TIMEOUT_SECONDS": "2"}
LEASE_SECONDS, LEASES = 5, 5
HANGING = 400


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    with ExitStack() as stack:
        port = stack.enter_context(Port())
        replica = Replica("one", tmp_path, {**SETTINGS, "SQLITE_PATH": str(tmp_path / "one.db")}, port.number)
        stack.callback(replica.close)
        replica.started()
        yield replica


@pytest.fixture
def hanging() -> Iterator[int]:
    """A port on all loopback addresses that accepts every connection and never answers."""
    with socket.create_server(("", 0), backlog=4_096) as server:
        yield int(server.getsockname()[1])


def register(replica: Replica, service: str, name: str, url: str, ttl: int = LEASE_SECONDS) -> None:
    request = registry_pb2.RegisterInstanceRequest(
        service_name=service, instance_id=name, service_url="http://h:1", health_check_url=url,
        lease_ttl_seconds=ttl,
    )  # fmt: skip
    replica.registry.RegisterInstance(request, timeout=15)


def memory_kib(replica: Replica) -> int:
    with open(f"/proc/{replica.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.parametrize("services", [1, 40])
def test_hanging_checks_do_not_expire_healthy_instances_of_another_service(
    replica: Replica, hanging: int, services: int
) -> None:
    """The hanging instances belong to one service or to many; each has its own address."""
    with HttpTarget() as target:
        for number in range(HANGING):
            url = f"http://127.0.{1 + number // 250}.{1 + number % 250}:{hanging}/"
            register(replica, f"bad{number % services}", f"b{number}", url)
        good = [f"g{number}" for number in range(5)]
        for name in good:
            register(replica, "good", name, f"{target.url}/ok")
        # Their fixed memory is allocated by now. Any further growth is a queue.
        until, before = time.monotonic() + LEASES * LEASE_SECONDS, memory_kib(replica)
        while time.monotonic() < until:
            assert replica.discovered("good") == good
            time.sleep(0.1)
        assert memory_kib(replica) - before < 32 << 10
        assert {i.status for i in replica.discover("good").instances} == {"HEALTHY"}


class Counting:
    """An HTTP server that counts its requests, and how many are in flight at the same time."""

    def __init__(self) -> None:
        self.requests = self.now = self.most = 0
        counting, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    counting.requests += 1
                    counting.now += 1
                    counting.most = max(counting.most, counting.now)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()
                with lock:
                    counting.now -= 1

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_many_instances_at_one_target_neither_flood_it_nor_lose_their_lease(replica: Replica) -> None:
    target = Counting()
    try:
        names = sorted(f"i{number}" for number in range(300))
        for name in names:
            register(replica, "many", name, f"http://127.0.0.1:{target.port}/{name}")
        requests, began = target.requests, time.monotonic()
        while time.monotonic() < began + 3 * LEASE_SECONDS:
            assert replica.discovered("many") == names, "a check that could not run does not end a lease"
            time.sleep(0.2)
        seconds = time.monotonic() - began
        assert target.requests - requests <= 10 * (seconds + 2), "at most ten checks per second"
        assert target.most <= 4
        eventually(lambda: target.requests > requests + 20, "the target is checked")
        request = registry_pb2.CheckServiceHealthRequest(service_name="many")
        requests, began = target.requests, time.monotonic()
        results = replica.registry.CheckServiceHealth(request, timeout=60).results
        assert target.requests - requests <= 10 * (time.monotonic() - began + 2), (
            "checks on demand do not flood the target either"
        )
        assert len(results) == 300
        assert all(result.passed for result in results)
    finally:
        target.close()


def test_check_result_does_not_reveal_why_a_port_fails(replica: Replica, hanging: int) -> None:
    """A refusing port, a hanging port and another protocol give the same result: registrations can't scan ports."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as speaking:
        refusing = stack.enter_context(socket.socket())
        refusing.bind(("127.0.0.1", 0))
        ports = {"refusing": refusing.getsockname()[1], "hanging": hanging, "speaking": speaking.getsockname()[1]}

        def speak() -> None:
            while True:
                try:
                    connection, _ = speaking.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=speak, daemon=True).start()
        for name, port in ports.items():
            for scheme in ("http", "https", "grpc"):
                register(replica, f"scan-{name}-{scheme}", name, f"{scheme}://127.0.0.1:{port}/", ttl=3_600)
        outcomes = set()
        for name in ports:
            for scheme in ("http", "https", "grpc"):
                request = registry_pb2.CheckServiceHealthRequest(service_name=f"scan-{name}-{scheme}")
                (result,) = replica.registry.CheckServiceHealth(request, timeout=60).results
                outcomes.add((result.passed, result.error, result.latency_ms, result.skipped))
        assert len(outcomes) == 1, outcomes
