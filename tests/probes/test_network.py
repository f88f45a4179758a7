"""Health checks over http, https and tcp, of correct and of faulty servers."""

import asyncio
import ssl
import time
from collections.abc import Callable

import pytest

from configsvc.probes.network import ANSWER_BYTES
from tests.probes.conftest import LOOPBACKS, Certificate, Handler, Servers, failure_of


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def answering(status: str = "200 OK", headers: str = "", body: bytes = b"") -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return handle


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "299 Fine"])
async def test_2xx_is_healthy(serve: Servers, status: str) -> None:
    assert await failure_of(f"http://127.0.0.1:{await serve(answering(status))}/health") == ""


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "503 Service Unavailable"])
async def test_another_status_fails_and_is_named(serve: Servers, status: str) -> None:
    found = await failure_of(f"http://127.0.0.1:{await serve(answering(status))}/health")
    assert status.split()[0] in found


async def test_redirect_is_not_followed(serve: Servers) -> None:
    target = await serve(answering())
    moved = answering("302 Found", f"location: http://127.0.0.1:{target}/\r\n")
    assert "302" in await failure_of(f"http://127.0.0.1:{await serve(moved)}/")
    assert serve.connections == 1


async def test_request_has_path_query_and_host_of_the_url(serve: Servers, resolve_to: Callable[..., None]) -> None:
    said: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    port = await serve(handle)
    resolve_to("instance.example", "127.0.0.1")
    assert await failure_of(f"http://instance.example:{port}/a%20b?c=d") == ""
    assert said[0].startswith("GET /a%20b?c=d HTTP/1.1\r\n")
    assert f"host: instance.example:{port}\r\n" in said[0].lower()


async def test_large_answer_is_not_read_to_the_end(serve: Servers) -> None:
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    assert await failure_of(f"http://127.0.0.1:{await serve(handle)}/") == ""
    # The rest is in buffers on the way.
    assert sent < ANSWER_BYTES + (32 << 20)


async def test_endless_headers_fail(serve: Servers) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: " + b"x" * 1_000 + b"\r\n")
            await writer.drain()

    assert "Error" in await failure_of(f"http://127.0.0.1:{await serve(handle)}/")


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one byte at a time, so that no single read takes long."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("handler", [hold, drip])
async def test_check_ends_at_its_timeout(serve: Servers, handler: Handler) -> None:
    port, began = await serve(handler), time.monotonic()
    found = await failure_of(f"http://127.0.0.1:{port}/", timeout_seconds=0.3)
    assert "within 0.3 s" in found or "Timeout" in found
    assert 0.2 < time.monotonic() - began < 5


@pytest.mark.parametrize("scheme", ["http", "https", "tcp", "grpc"])
async def test_refused_connection_fails(serve: Servers, scheme: str) -> None:
    found = await failure_of(f"{scheme}://127.0.0.1:{serve.unused_port()}/")
    assert found.startswith("unanswered: UNAVAILABLE" if scheme == "grpc" else "unanswered: no connection")


async def test_answer_that_is_not_http_fails(serve: Servers) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    assert "Error" in await failure_of(f"http://127.0.0.1:{await serve(handle)}/")


async def test_accepted_connection_is_healthy_for_tcp(serve: Servers) -> None:
    assert await failure_of(f"tcp://127.0.0.1:{await serve(hold)}") == ""


async def test_unreachable_address_fails_in_time() -> None:
    """192.0.2.0/24 (RFC 5737) is reserved for documentation: packets to it are dropped or rejected."""
    began = time.monotonic()
    assert await failure_of("tcp://192.0.2.1:81", timeout_seconds=0.3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("scheme", ["http", "tcp"])
@pytest.mark.parametrize("address", LOOPBACKS)
async def test_ipv4_and_ipv6_addresses_are_checked(serve: Servers, scheme: str, address: str) -> None:
    port = await serve(answering(), host=address)
    assert await failure_of(f"{scheme}://{in_url(address)}:{port}/") == ""


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_next_address_is_tried_if_the_first_is_unreachable(
    serve: Servers, resolve_to: Callable[..., None], scheme: str
) -> None:
    """Like `localhost`, if the server listens on 127.0.0.1 only."""
    port = await serve(answering())
    resolve_to("instance.example", "::1", "127.0.0.1")
    assert await failure_of(f"{scheme}://instance.example:{port}/") == ""


async def test_next_address_is_not_tried_after_a_failed_answer(serve: Servers, resolve_to: Callable[..., None]) -> None:
    port = await serve(answering("500 Internal Server Error"))
    resolve_to("instance.example", "127.0.0.1", "127.0.0.2")
    assert "500" in await failure_of(f"http://instance.example:{port}/")
    assert serve.connections == 1


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 64 + ".example", "ex..ample", "xn--a.example"])
async def test_unresolvable_name_is_unanswered(name: str) -> None:
    for scheme in ("http", "tcp", "grpc"):
        assert (await failure_of(f"{scheme}://{name}:80/")).startswith("unanswered")


async def test_international_name_is_encoded(serve: Servers, resolve_to: Callable[..., None]) -> None:
    port = await serve(answering())
    resolve_to("bücher.example", "127.0.0.1")
    for scheme in ("http", "tcp"):
        assert await failure_of(f"{scheme}://bücher.example:{port}/") == ""


def tls(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_https_with_a_trusted_certificate_is_healthy(
    serve: Servers, certificate: Certificate, resolve_to: Callable[..., None], address: str
) -> None:
    """By its address, and by a name."""
    port = await serve(answering(), host=address, ssl=tls(certificate))
    resolve_to("instance.example", address)
    for host in (in_url(address), "instance.example"):
        assert await failure_of(f"https://{host}:{port}/", authorities=certificate.certificate) == ""


async def test_https_sends_the_server_name(
    serve: Servers, certificate: Certificate, resolve_to: Callable[..., None]
) -> None:
    asked: list[str | None] = []
    context = tls(certificate)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    port = await serve(answering(), ssl=context)
    resolve_to("instance.example", "127.0.0.1")
    assert await failure_of(f"https://instance.example:{port}/", authorities=certificate.certificate) == ""
    assert asked == ["instance.example"]


async def test_certificate_of_an_unknown_authority_fails(serve: Servers, certificate: Certificate) -> None:
    port = await serve(answering(), ssl=tls(certificate))
    assert "CERTIFICATE_VERIFY_FAILED" in await failure_of(f"https://127.0.0.1:{port}/")


async def test_certificate_for_another_name_fails(
    serve: Servers, certificate: Certificate, resolve_to: Callable[..., None]
) -> None:
    port = await serve(answering(), ssl=tls(certificate))
    resolve_to("another.example", "127.0.0.1")
    found = await failure_of(f"https://another.example:{port}/", authorities=certificate.certificate)
    assert "another.example" in found


async def test_unknown_scheme_fails() -> None:
    assert "can't be checked" in await failure_of("ftp://127.0.0.1:21/")
