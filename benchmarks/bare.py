"""A server of the workers' engine whose methods do nothing: what any call costs before our code.

    GRPC_ENGINE=native python -m benchmarks.bare 127.0.0.1:50051 unix:/tmp/bare.sock

The methods of the comparisons answer an empty message at once, as a quick read does. `GENERAL` answers the same from a
task of its own, as any other call. Health checks are answered, so that Envoy sends requests here.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import run
from benchmarks.targets import configsvc
from configsvc.rpc.engine import EngineMethod, EngineOptions, open_engine

GENERAL = "/bench.Bare/General"
# Envoy's `/ready` is this call.
READY = "/configsvc.v1.HealthService/GetReadiness"
HEALTH = "/grpc.health.v1.Health/Check"
# HealthCheckResponse {status = SERVING}.
SERVING = b"\x08\x01"


@dataclass(frozen=True, slots=True)
class _Empty:
    """A quick answer."""

    message: bytes = b""
    trailing_metadata: Sequence[tuple[str, str]] = ()
    details: str = ""


def _methods() -> list[EngineMethod]:
    empty = _Empty()
    quick = [
        operation.method for operation in (configsvc.get_config(), configsvc.evaluate_flag(), configsvc.discover())
    ]
    return [
        *(EngineMethod(path, _always(b""), quick_read=lambda _request, _metadata: empty) for path in quick),
        *(EngineMethod(path, _always(b"")) for path in (GENERAL, READY)),
        EngineMethod(HEALTH, _always(SERVING)),
    ]


def _always(answer: bytes) -> Callable[[Any, Any], Awaitable[bytes]]:
    async def method(_request: Any, _context: Any) -> bytes:
        return answer

    return method


async def _serve(addresses: Sequence[str]) -> None:
    options = EngineOptions(max_request_bytes=8 << 20, on_unknown_method=lambda _path: None)
    await open_engine(os.environ.get("GRPC_ENGINE", "native"), addresses, options).start(_methods(), addresses)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(_serve(sys.argv[1:]))
