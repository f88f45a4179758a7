"""Several workers behind one Envoy, as `configsvc up` runs them: what clients see if a worker dies or all stop."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.conftest import Running, start, stop
from tests.engines.ports import Port
from tests.engines.service_set import ServiceSet
from tests.replicas.conftest import own_settings
from tests.replicas.fleet import eventually

WORKERS = 3
CLIENTS = 8


@pytest.fixture
def service(services: ServiceSet, tmp_path: Path) -> Iterator[Running]:
    with own_settings(services) as settings, Port() as port:
        running = start(tmp_path, port.number, WORKERS=str(WORKERS), **settings)
        yield running
        if running.process.poll() is None:
            stop(running)


def workers(running: Running) -> list[psutil.Process]:
    """The server processes of a running service."""
    workers = []
    for child in psutil.Process(running.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "serve" in child.cmdline():
                workers.append(child)
    return workers


def serves(worker: psutil.Process) -> bool:
    """Whether a worker reports that it is healthy."""
    command = worker.cmdline()
    with grpc.insecure_channel(command[command.index("--listen") + 1]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=False)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class Load:
    """Clients that send requests until they are stopped; records every answer and every failure."""

    def __init__(self, running: Running) -> None:
        self._url = running.url
        self._stop = threading.Event()
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self.errors: list[str] = []
        self.dismissed = 0
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=20) as client:
            while not self._stop.is_set():
                try:
                    answer = self.ask(client, number)
                    self.statuses.append(answer.status_code)
                    if answer.headers.get("connection") == "close":
                        # The connection was closed because the service stops.
                        self.dismissed += 1
                        return
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    return

    def ask(self, client: httpx.Client, number: int) -> httpx.Response:
        # Half of them read by POST, which is also a read.
        if number % 2:
            answer = client.post("/api/v1/config/bulk", json={"keys": ["k"], "environment": "test"})
        else:
            answer = client.get("/api/v1/config/k", params={"environment": "test"})
        if answer.status_code == 200:
            (config,) = answer.json().get("configs", [answer.json()])
            assert config["value"] == "v"
        else:
            self.errors.append(answer.text)
        return answer

    def until(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.statuses) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.statuses) >= count, self.failures

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


class Writes(Load):
    """Each request writes its own key."""

    def ask(self, client: httpx.Client, number: int) -> httpx.Response:
        key = f"w-{number}-{time.monotonic_ns()}"
        answer = client.post("/api/v1/config", json={"key": key, "value": 1, "environment": "test"})
        if answer.status_code == 201:
            self.written.append(key)
        return answer

    def __init__(self, running: Running) -> None:
        self.written: list[str] = []
        super().__init__(running)


def create(running: Running) -> None:
    body = {"key": "k", "value": "v", "environment": "test"}
    assert httpx.post(f"{running.url}/api/v1/config", json=body, timeout=20).status_code == 201


def test_readers_do_not_notice_the_death_of_a_worker(service: Running) -> None:
    create(service)
    load = Load(service)
    load.until(100)
    for _ in range(WORKERS):
        victim = workers(service)[0]
        os.kill(victim.pid, signal.SIGKILL)
        load.until(len(load.statuses) + 200)
        eventually(lambda: sum(map(serves, workers(service))) == WORKERS, "the dead worker is restarted")
    load.end()
    assert load.failures == []
    assert load.errors == []


def test_gateway_does_not_retry_writes(service: Running) -> None:
    """A retried write could happen twice: a write in flight at a worker's death fails, and the client decides."""
    writes = Writes(service)
    writes.until(50)
    os.kill(workers(service)[0].pid, signal.SIGKILL)
    writes.until(len(writes.statuses) + 100)
    writes.end()
    assert writes.failures == []
    assert set(writes.statuses) <= {201, 503}
    # The gateway sent no create twice: the second would have been a conflict.
    assert 409 not in writes.statuses


def test_stop_under_load_loses_no_request(service: Running) -> None:
    create(service)
    reads, writes = Load(service), Writes(service)
    reads.until(100)
    writes.until(50)
    assert stop(service) == 0
    reads.end()
    writes.end()
    assert reads.failures == []
    assert writes.failures == []
    assert set(reads.statuses) == {200}
    assert set(writes.statuses) == {201}
    assert reads.dismissed + writes.dismissed == 2 * CLIENTS
