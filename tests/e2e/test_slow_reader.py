"""A watcher that stops reading, through a real Envoy, hurts only itself, also when it disconnects."""

import json
import socket

import httpx

from tests.e2e.conftest import Running

# More than Envoy's default buffers for all streams of one connection (24 MiB): each change carries both values.
VALUE_BYTES = 100_000
WRITES = 300


def stuck_watcher(service: Running, environment: str) -> socket.socket:
    """Opens a watch, reads its first messages, and stops reading."""
    watcher = socket.socket()
    watcher.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    watcher.settimeout(10)
    watcher.connect(("127.0.0.1", service.port))
    watcher.sendall(f"GET /api/v1/config:watch?environment={environment} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    seen = b""
    while b"synced" not in seen:
        seen += watcher.recv(1024)
    return watcher


def test_watcher_that_stops_reading_delays_nobody_and_can_disconnect(
    service: Running, rest: httpx.Client, environment: str
) -> None:
    rest.post("/api/v1/config", json={"key": "k", "value": "", "environment": environment}).raise_for_status()
    with stuck_watcher(service, environment):
        for number in range(WRITES):
            body = {"value": f"{number:0{VALUE_BYTES}}", "environment": environment}
            answer = rest.put("/api/v1/config/k", json=body)
            assert answer.status_code == 200, (number, answer.text)
    # A watcher that reads gets the newest value, and the server has survived the disconnect of the other.
    with rest.stream("GET", "/api/v1/config:watch", params={"environment": environment}) as stream:
        snapshot = json.loads(next(stream.iter_lines()))["snapshot"]
        assert snapshot["configs"][0]["version"] == WRITES + 1
    rest.put("/api/v1/config/k", json={"value": 1, "environment": environment}).raise_for_status()
    assert "ended with status" not in service.log.read_text()
