"""h2load: one client for all servers, for gRPC and REST, fast enough not to limit them.

It counts a gRPC error as a success, because the HTTP status is 200. So each run is checked by its result: the bytes of
its answers, or the version of a key after the writes.
"""

import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.packages import Program

# Enough to warm up every connection and every code path.
FIRST_REQUESTS = 400
FEWEST_REQUESTS = 64
GRPC = {"content-type": "application/grpc", "te": "trailers"}
# gRPC's message header: whether the message is compressed, and its length.
PREFIX = struct.Struct(">BI")

_RATE = re.compile(r"finished in \S+, ([0-9.]+) req/s")
_DONE = re.compile(r"requests: (\d+) total, .* (\d+) succeeded")
_DATA = re.compile(r"headers .*, \S+ \((\d+)\) data")


class WrongAnswersError(AssertionError):
    """The server was fast, but its answers or writes were wrong."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, sent repeatedly. `http1`: one connection for each request in flight, like REST clients."""

    url: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    http1: bool = False


def grpc_request(address: str, method: str, message: bytes) -> Request:
    """A unary call."""
    return Request(f"http://{address}{method}", PREFIX.pack(0, len(message)) + message, GRPC)


@dataclass(slots=True)
class Load:
    """One request at one concurrency against one server. Each run takes about the requested time.

    `check` is called before a run. It returns a function that decides after the run, from the number of requests and
    the bytes received, whether all answers were right.
    """

    program: Program
    request: Request
    in_flight: int
    check: Callable[[], Callable[[int, int], bool]]
    _rate: float = 0.0

    def run(self, seconds: float) -> float:
        """Requests per second. Raises `WrongAnswersError`."""
        count = max(FEWEST_REQUESTS, self.in_flight, round(self._rate * seconds)) if self._rate else FIRST_REQUESTS
        is_right = self.check()
        output = self._output(count)
        rate, done, data = _RATE.search(output), _DONE.search(output), _DATA.search(output)
        if rate is None or done is None or data is None:
            raise WrongAnswersError(f"h2load said:\n{output}")
        if int(done[2]) != count or not is_right(count, int(data[1])):
            raise WrongAnswersError(f"{self.request.url}: not {count} right answers; h2load said:\n{output}")
        self._rate = float(rate[1])
        return self._rate

    def _output(self, count: int) -> str:
        connections = self.in_flight if self.request.http1 or self.in_flight < 8 else self.in_flight // 8
        command = [self.program.path, "-n", str(count), "-c", str(connections), "-t", "1"]
        command += ["--h1", "-m", "1"] if self.request.http1 else ["-m", str(self.in_flight // connections)]
        for name, value in self.request.headers.items():
            command += ["-H", f"{name}: {value}"]
        with tempfile.TemporaryDirectory() as directory:
            if self.request.body:
                body = Path(directory, "body")
                body.write_bytes(self.request.body)
                command += ["-d", str(body)]
            environ = {**self.program.environment} or None
            done = subprocess.run(
                [*command, self.request.url], capture_output=True, text=True, env=environ, timeout=120, check=False
            )
        return done.stdout + done.stderr
