"""A `configsvc serve` process and its log."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from configsvc_client.v1 import health_pb2, health_pb2_grpc

# Only a failing test waits for so long.
PATIENCE_SECONDS = 30.0

# GRPC_ENGINE chooses the engine of a whole test run.
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "GRPC_ENGINE")

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str) -> T:
    """Waits until the condition returns a true value, and returns that. `what` says in the failure what did not happen."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s: {what} ({result!r})"
        time.sleep(0.02)


class ServerProcess:
    """One server process on the embedded backends."""

    def __init__(self, address: str, directory: Path, settings: Mapping[str, str]) -> None:
        self.address = address
        self.log = directory / "server.log"
        self.database = directory / "configsvc.db"
        inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
        self._environment = {**inherited, "SQLITE_PATH": str(self.database), **settings}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "configsvc", "serve", "--listen", self.address],
                env=self._environment,
                cwd=self._directory,
                stdout=output,
                stderr=output,
            )

    def channel(self, **options: int) -> grpc.Channel:
        return grpc.insecure_channel(self.address, [(f"grpc.{name}", value) for name, value in options.items()])

    def wait_until_ready(self) -> None:
        """Returns when the process answers calls."""
        with self.channel() as channel:
            health_pb2_grpc.HealthServiceStub(channel).GetLiveness(
                health_pb2.GetLivenessRequest(), timeout=PATIENCE_SECONDS, wait_for_ready=True
            )

    def peak_memory_bytes(self) -> int:
        """The most memory that the process has had (VmHWM of proc(5))."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def terminate(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait_for_exit(self) -> int:
        """The exit status."""
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
            self.wait_for_exit()

    def log_lines(self) -> list[dict[str, Any]]:
        """The lines of the log. A line that is not JSON fails the test."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def access_log(self, request_id: str) -> list[dict[str, Any]]:
        """The lines of the access log about one call. Waits for the first."""
        return eventually(
            lambda: [
                line for line in self.log_lines() if line["event"] == "call" and line.get("request_id") == request_id
            ],
            f"the call {request_id} is in the log",
        )
