"""Health checks over gRPC, of a real server."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.probes.conftest import Servers, failure_of
from tests.probes.test_network import answering, hold

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The service `well` is SERVING, `ill` is not, and the server as a whole is."""
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
async def test_serving_is_healthy(port: int, path: str) -> None:
    assert await failure_of(f"grpc://127.0.0.1:{port}{path}") == ""


async def test_not_serving_fails_and_is_named(port: int) -> None:
    assert "NOT_SERVING" in await failure_of(f"grpc://127.0.0.1:{port}/ill")


async def test_unknown_service_fails(port: int) -> None:
    assert "NOT_FOUND" in await failure_of(f"grpc://127.0.0.1:{port}/none")


async def test_server_without_the_health_service_fails() -> None:
    server = grpc.aio.server()
    number = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert "UNIMPLEMENTED" in await failure_of(f"grpc://127.0.0.1:{number}")
    await server.stop(0)


async def test_silent_server_is_unanswered(serve: Servers) -> None:
    found = await failure_of(f"grpc://127.0.0.1:{await serve(hold)}", timeout_seconds=0.3)
    assert found.startswith("unanswered")


async def test_answer_that_is_not_grpc_looks_like_no_answer(serve: Servers) -> None:
    found = await failure_of(f"grpc://127.0.0.1:{await serve(answering())}", timeout_seconds=0.5)
    assert found.startswith("unanswered")


async def test_next_address_is_tried_if_the_first_is_unreachable(port: int, resolve_to: Callable[..., None]) -> None:
    resolve_to("instance.example", "::1", "127.0.0.1")
    assert await failure_of(f"grpc://instance.example:{port}/well") == ""


async def test_proxies_of_the_environment_are_not_used(
    port: int, serve: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would learn the address, and could reach what this service may not."""
    proxy = f"http://127.0.0.1:{await serve(hold)}"
    for name in ("grpc_proxy", "http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert await failure_of(f"grpc://127.0.0.1:{port}/well") == ""
    assert serve.connections == 0
