"""The load client (`peers/go/load`): one client for all servers, for gRPC, REST and watches.

Each `Load` is a process that keeps its connections between rounds. It checks each answer: the HTTP and the gRPC status,
and the length of the body where a target knows it.
"""

import base64
import json
import select
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.measure import Measured
from benchmarks.peers import Program
from benchmarks.placement import Placement

# Eight connections for many calls: a server that reads connections in turn then has several to read.
CONNECTIONS = 8
# Opening 5,000 watches on a busy machine takes seconds.
PATIENCE_SECONDS = 120
# Where `python -m benchmarks…` works.
ROOT = Path(__file__).resolve().parent.parent


class LoadError(AssertionError):
    """The load client could not go on: a connection ended, or a change did not arrive."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `body` is the encoded message for gRPC. `expect`: the length of a right answer; -1: any."""

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    expect: int = -1

    def described(self) -> dict[str, Any]:
        """For the load client."""
        return {
            **{"method": self.method, "path": self.path, "headers": dict(self.headers), "expect": self.expect},
            "body": base64.b64encode(self.body).decode(),
        }


@dataclass(frozen=True, slots=True)
class Watch:
    """How to watch a key. `opens`, `changes`: the field that only the message has that ends the initial state, and the one
    that only a change has. `half_open`: the client keeps its side of the stream open."""

    path: str
    body: bytes
    opens: int
    changes: int
    half_open: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """One server as its clients see it. `requests` are sent in turn."""

    address: str
    requests: Sequence[Request]
    http: bool = False


class Session:
    """A process that obeys commands: the load client, or work without a server (`alone`)."""

    def __init__(self, name: str, command: Sequence[str], config: Mapping[str, Any]) -> None:
        self._name = name
        # The right answers of the last round.
        self.answers = 0
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        )
        self._ask(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        self._process.kill()
        self._process.communicate()

    def per_second(self, seconds: float) -> Measured:
        """Right answers a second."""
        got = self._round({"seconds": seconds})
        return Measured(got["answers"] / got["seconds"], got["errors"], got["busy"])

    def microseconds(self, seconds: float) -> Measured:
        """The median time of one call, in microseconds."""
        got = self._round({"seconds": seconds})
        return Measured(got["p50"], got["errors"], got["busy"])

    def _round(self, command: Mapping[str, Any]) -> Any:
        got = json.loads(self._ask(command))
        self.answers = got["answers"]
        return got

    def _ask(self, line: Mapping[str, Any]) -> bytes:
        """Sends a line; returns the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer = b""
        try:
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], PATIENCE_SECONDS)[0]:
                answer = self._process.stdout.readline()
        except BrokenPipeError:
            # It has ended, and has said why.
            answer = b""
        if not answer:
            self._process.kill()
            said = self._process.communicate()[1].decode(errors="replace").strip()
            raise LoadError(f"{self._name}: {said or f'no answer in {PATIENCE_SECONDS} s'}")
        return answer


class Load(Session):
    """One load on one target."""

    def __init__(
        self,
        program: Program,
        placement: Placement,
        target: Target,
        in_flight: int = 1,
        *,
        watch: Watch | None = None,
        watchers: int = 0,
    ) -> None:
        config: dict[str, Any] = {
            "protocol": "http" if target.http else "grpc",
            "address": target.address,
            "connections": CONNECTIONS if in_flight >= CONNECTIONS else 1,
            "in_flight": in_flight,
            "requests": [request.described() for request in target.requests],
        }
        if watch is not None:
            config["watch"] = {
                **{"path": watch.path, "body": base64.b64encode(watch.body).decode(), "streams": watchers},
                **{"half_open": watch.half_open, "opens": watch.opens, "changes": watch.changes},
            }
        name = f"{target.address} {target.requests[0].path}"
        super().__init__(name, [*placement.on_load(), *program.command], config)

    def at_rate(self, rate: float, seconds: float) -> tuple[Measured, Measured]:
        """The 50th and 99th percentile at a fixed rate, in microseconds from the time at which a request was due."""
        got = self._round({"seconds": seconds, "rate": rate})
        return Measured(got["p50"], got["errors"], got["busy"]), Measured(got["p99"], got["errors"], got["busy"])

    def events(self, count: int) -> list[float]:
        """Milliseconds from each write until the last watcher had it."""
        last: list[float] = self._round({"events": count})["last"]
        return last
