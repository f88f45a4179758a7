"""Health checks over gRPC, of a real server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.probes.conftest import LeaseClock, problem
from tests.probes.test_network import answering, hold

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """`well` serves, `ill` does not, and the server as a whole does."""
    servicer: Any = health.aio.HealthServicer()
    await servicer.set("well", SERVING)
    await servicer.set("ill", NOT_SERVING)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    number = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield number
    await server.stop(0)


@pytest.mark.parametrize("path", ["", "/", "/well"])
async def test_one_that_serves_is_well(port: int, path: str) -> None:
    assert await problem(f"grpc://127.0.0.1:{port}{path}") == ""


async def test_one_that_does_not_serve_says_so(port: int) -> None:
    assert "NOT_SERVING" in await problem(f"grpc://127.0.0.1:{port}/ill")


async def test_an_unknown_service_is_not_well(port: int) -> None:
    assert "NOT_FOUND" in await problem(f"grpc://127.0.0.1:{port}/none")


async def test_a_server_without_health_checks_is_not_well() -> None:
    server = grpc.aio.server()
    number = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert "UNIMPLEMENTED" in await problem(f"grpc://127.0.0.1:{number}")
    await server.stop(0)


async def test_one_that_never_answers_is_not_well(listening: LeaseClock) -> None:
    found = await problem(f"grpc://127.0.0.1:{await listening(hold)}", timeout_seconds=0.3)
    assert found.startswith("unanswered")


async def test_one_that_speaks_something_else_is_not_told_from_one_that_never_answers(listening: LeaseClock) -> None:
    found = await problem(f"grpc://127.0.0.1:{await listening(answering())}", timeout_seconds=0.5)
    assert found.startswith("unanswered")


async def test_the_next_address_is_tried_where_the_first_is_not_reached(
    port: int, resolves: Callable[..., None]
) -> None:
    resolves("instance.example", "::1", "127.0.0.1")
    assert await problem(f"grpc://instance.example:{port}/well") == ""


async def test_no_proxy_of_the_environment_is_asked(
    port: int, listening: LeaseClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be told the address, and reach what this service may not."""
    proxy = f"http://127.0.0.1:{await listening(hold)}"
    for name in ("grpc_proxy", "http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert await problem(f"grpc://127.0.0.1:{port}/well") == ""
    assert listening.connections == 0
