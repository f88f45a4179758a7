"""The whole service as a person runs it: `configsvc up` on embedded defaults, through a real Envoy."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.engines.ports import Port

READY_WITHIN_SECONDS = 30


@dataclass(frozen=True)
class Running:
    """A service that is ready."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


def start(directory: Path, port: int, **settings: str) -> Running:
    """Starts `configsvc up` and returns when /ready answers 200."""
    log = directory / "service.log"
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME", "LANG", "TMPDIR", "GRPC_ENGINE")
        },
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "SQLITE_PATH": str(directory / "configsvc.db"),
        **settings,
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "configsvc", "up"], env=environment, stdout=output, stderr=output, cwd=directory
        )
    running = Running(port, process, log)
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{running.url}/ready", timeout=1).status_code == 200:
                return running
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"not ready within {READY_WITHIN_SECONDS} s:\n{log.read_text()[-4000:]}")


def stop(running: Running) -> int:
    """Stops it as Ctrl-C or a process manager would; returns the exit status."""
    running.process.terminate()
    try:
        return running.process.wait(30)
    except subprocess.TimeoutExpired:
        running.process.kill()
        raise


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Port() as port:
        running = start(tmp_path_factory.mktemp("service"), port.number)
        yield running
        assert stop(running) == 0


@pytest.fixture(scope="session")
def rest(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> str:
    """An environment of the test's own."""
    return f"e{abs(hash(request.node.nodeid)) % 10**12}"
