"""Slow and stalled callers: they are disconnected, their memory is bounded, and other callers are answered."""

import contextlib
import os
import select
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Running, start, stop
from tests.e2e.raw import PATIENCE_SECONDS
from tests.engines.ports import Port
from tests.replicas.fleet import eventually

HEAD = b"host: localhost\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
JSON, GRPC_WEB = b"application/json", b"application/grpc-web+proto"
WATCH = b"POST /configsvc.v1.ConfigService/WatchConfigs HTTP/1.1\r\n" + HEAD % (GRPC_WEB, 1000)
KEEP_ALIVE = b"POST /configsvc.v1.RegistryService/KeepAlive HTTP/1.1\r\n" + HEAD % (GRPC_WEB, 1000)
HALF_SENT = {
    "part of the first line": b"GET /li",
    "part of the headers": b"GET /live HTTP/1.1\r\nhost: localhost\r\nx-a: ",
    "part of a body": b"POST /api/v1/config HTTP/1.1\r\n" + HEAD % (JSON, 1000) + b"{",
    "part of a message to a watch": WATCH + b"\0\0",
    "nothing on a stream": KEEP_ALIVE,
}
EACH = 40
MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Running]:
    """A service with small limits."""
    with Port() as port:
        running = start(tmp_path, port.number, GATEWAY_MEMORY_BYTES=str(64 * MIB), MAX_CONNECTIONS="200")
        yield running
        assert stop(running) == 0


def sent(service: Running, part: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_SECONDS)
    with contextlib.suppress(ConnectionError):
        connection.sendall(part)
    return connection


def ended(connection: socket.socket) -> bool:
    """Whether the server has closed the connection. Reads the pending bytes first."""
    with contextlib.suppress(ConnectionError):
        while select.select([connection], [], [], 0)[0]:
            if not connection.recv(65536):
                return True
        return False
    return True


def until_ended(connections: list[socket.socket], what: str) -> None:
    eventually(lambda: all(ended(connection) for connection in connections), f"{what}: ended")
    for connection in connections:
        connection.close()


def envoy_peak_bytes(service: Running) -> int:
    """The peak memory of the gateway's process (VmHWM of proc(5))."""
    parent = service.process.pid
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if "envoy" in Path(f"/proc/{child}/cmdline").read_text().split("\0")[0]:
            return int(Path(f"/proc/{child}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    raise AssertionError("no Envoy")


def test_half_sent_requests_are_disconnected(service: Running) -> None:
    """They once stayed open for more than 80 s."""
    connections = {name: [sent(service, part) for _ in range(EACH)] for name, part in HALF_SENT.items()}
    assert httpx.get(f"{service.url}/live").status_code == 200
    for name, held in connections.items():
        until_ended(held, name)


def test_unfinished_bodies_use_bounded_memory_and_are_disconnected(small: Running) -> None:
    """Forty bodies of 7 MiB once took Envoy from 68 to 356 MiB."""
    before = envoy_peak_bytes(small)
    part = b"POST /api/v1/config HTTP/1.1\r\n" + HEAD % (JSON, 8 * MIB) + b" " * (7 * MIB)
    held = [sent(small, part) for _ in range(40)]
    until_ended(held, "held bodies")
    # The bound is 64 MiB, plus the bytes that arrived before Envoy noticed it; all bodies together have 280 MiB.
    assert envoy_peak_bytes(small) - before < 200 * MIB
    body = {"key": "k", "value": 1, "environment": "dev"}
    eventually(
        lambda: httpx.post(f"{small.url}/api/v1/config", json=body).status_code in (201, 409), "a write is accepted"
    )


def test_watchers_that_stop_reading_do_not_affect_others(service: Running, environment: str) -> None:
    """Each holds a part of its snapshot, up to 4 MiB, until it is disconnected."""
    operations = [{"key": f"k{number}", "value": "x" * 1_000_000} for number in range(7)]
    batch = {"environment": environment, "operations": operations}
    httpx.post(f"{service.url}/api/v1/config:batchWrite", json=batch, timeout=60).raise_for_status()
    request = f"GET /api/v1/config:watch?environment={environment} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stuck = stack.enter_context(socket.socket())
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.settimeout(PATIENCE_SECONDS)
            stuck.connect(("127.0.0.1", service.port))
            stuck.sendall(request)
            assert stuck.recv(12) == b"HTTP/1.1 200"
            assert httpx.get(f"{service.url}/live", timeout=60).status_code == 200


def test_connections_are_bounded(small: Running) -> None:
    held = [sent(small, b"") for _ in range(300)]
    eventually(lambda: sum(map(ended, held)) >= 100, "connections above the limit are closed")
    for connection in held:
        connection.close()
    eventually(lambda: _lives(small), "other callers are answered again")


def _lives(service: Running) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{service.url}/live").status_code == 200
    return False


def test_stream_outlives_the_time_outs_of_requests(service: Running, environment: str) -> None:
    """A stream that began before a half-sent request is still open when that request is disconnected."""
    with httpx.stream("GET", f"{service.url}/api/v1/config:watch?environment={environment}", timeout=60) as watch:
        lines = watch.iter_lines()
        assert "synced" in next(lines)
        until_ended([sent(service, HALF_SENT["part of a body"])], "a request that began later")
        body = {"key": "k", "value": 1, "environment": environment}
        assert httpx.post(f"{service.url}/api/v1/config", json=body).status_code == 201
        assert any('"change"' in line for line in lines)


def test_children_ignore_sighup_and_the_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    # A socket's path must be short, and pytest's directories are too long.
    temporary = Path(tempfile.mkdtemp(prefix="gw-"))
    try:
        with Port() as port:
            running = start(tmp_path, port.number, TMPDIR=str(temporary))
            pid = running.process.pid
            children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            for process in children:
                os.kill(process, signal.SIGHUP)
            eventually(lambda: "SIGHUP changes nothing" in running.log.read_text(), "it is said")
            assert httpx.get(f"{running.url}/live").status_code == 200
            assert children == [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            for _ in range(2):
                running.process.kill()
                running.process.wait()
                running = start(tmp_path, port.number, TMPDIR=str(temporary))
            assert len(list(temporary.glob("configsvc-*"))) == 1
            assert stop(running) == 0
            assert list(temporary.glob("configsvc-*")) == []
    finally:
        shutil.rmtree(temporary)
