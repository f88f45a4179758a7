"""Health checks over http, https and tcp, of servers that behave and of servers that don't."""

import asyncio
import ssl
import time
from collections.abc import Callable

import pytest

from configsvc.probes.network import ANSWER_BYTES
from tests.probes.conftest import LOOPBACKS, Certificate, Handler, LeaseClock, problem


def in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def answering(status: str = "200 OK", headers: str = "", body: bytes = b"") -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return handle


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "299 Fine"])
async def test_any_status_of_success_is_well(listening: LeaseClock, status: str) -> None:
    assert await problem(f"http://127.0.0.1:{await listening(answering(status))}/health") == ""


@pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "503 Service Unavailable"])
async def test_another_status_is_named(listening: LeaseClock, status: str) -> None:
    found = await problem(f"http://127.0.0.1:{await listening(answering(status))}/health")
    assert status.split()[0] in found


async def test_a_redirect_is_not_followed(listening: LeaseClock) -> None:
    target = await listening(answering())
    moved = answering("302 Found", f"location: http://127.0.0.1:{target}/\r\n")
    assert "302" in await problem(f"http://127.0.0.1:{await listening(moved)}/")
    assert listening.connections == 1


async def test_the_request_has_the_urls_path_query_and_host(
    listening: LeaseClock, resolves: Callable[..., None]
) -> None:
    said: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    port = await listening(handle)
    resolves("instance.example", "127.0.0.1")
    assert await problem(f"http://instance.example:{port}/a%20b?c=d") == ""
    assert said[0].startswith("GET /a%20b?c=d HTTP/1.1\r\n")
    assert f"host: instance.example:{port}\r\n" in said[0].lower()


async def test_little_of_a_large_answer_is_read(listening: LeaseClock) -> None:
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    assert await problem(f"http://127.0.0.1:{await listening(handle)}/") == ""
    # The rest are buffers on the way.
    assert sent < ANSWER_BYTES + (32 << 20)


async def test_endless_headers_are_no_answer(listening: LeaseClock) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: " + b"x" * 1_000 + b"\r\n")
            await writer.drain()

    assert "Error" in await problem(f"http://127.0.0.1:{await listening(handle)}/")


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a byte at a time, so that no single read takes long."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("handler", [hold, drip])
async def test_a_look_ends_when_its_time_is_over(listening: LeaseClock, handler: Handler) -> None:
    port, began = await listening(handler), time.monotonic()
    found = await problem(f"http://127.0.0.1:{port}/", timeout_seconds=0.3)
    assert "within 0.3 s" in found or "Timeout" in found
    assert 0.2 < time.monotonic() - began < 5


@pytest.mark.parametrize("scheme", ["http", "https", "tcp", "grpc"])
async def test_where_nobody_listens_nothing_is_well(listening: LeaseClock, scheme: str) -> None:
    found = await problem(f"{scheme}://127.0.0.1:{listening.unused_port()}/")
    assert found.startswith("unanswered: UNAVAILABLE" if scheme == "grpc" else "unanswered: no connection")


async def test_what_is_no_http_is_not_well(listening: LeaseClock) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    assert "Error" in await problem(f"http://127.0.0.1:{await listening(handle)}/")


async def test_a_connection_is_enough_for_tcp(listening: LeaseClock) -> None:
    assert await problem(f"tcp://127.0.0.1:{await listening(hold)}") == ""


async def test_an_address_without_an_answer_is_given_up_in_time() -> None:
    """192.0.2.0/24 (RFC 5737) is nobody's: packets to it vanish, or the network says so."""
    began = time.monotonic()
    assert await problem("tcp://192.0.2.1:81", timeout_seconds=0.3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("scheme", ["http", "tcp"])
@pytest.mark.parametrize("address", LOOPBACKS)
async def test_an_address_is_looked_at_of_ipv4_and_ipv6(listening: LeaseClock, scheme: str, address: str) -> None:
    port = await listening(answering(), host=address)
    assert await problem(f"{scheme}://{in_url(address)}:{port}/") == ""


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_the_next_address_is_tried_where_the_first_is_not_reached(
    listening: LeaseClock, resolves: Callable[..., None], scheme: str
) -> None:
    """As of `localhost`, where the server listens on 127.0.0.1 alone."""
    port = await listening(answering())
    resolves("instance.example", "::1", "127.0.0.1")
    assert await problem(f"{scheme}://instance.example:{port}/") == ""


async def test_another_address_is_not_asked_for_a_better_answer(
    listening: LeaseClock, resolves: Callable[..., None]
) -> None:
    port = await listening(answering("500 Internal Server Error"))
    resolves("instance.example", "127.0.0.1", "127.0.0.2")
    assert "500" in await problem(f"http://instance.example:{port}/")
    assert listening.connections == 1


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 64 + ".example", "ex..ample", "xn--a.example"])
async def test_a_name_without_an_address_is_said_to_be_one(name: str) -> None:
    for scheme in ("http", "tcp", "grpc"):
        assert (await problem(f"{scheme}://{name}:80/")).startswith("unanswered")


async def test_an_international_name_is_asked_for_as_it_goes_on_the_wire(
    listening: LeaseClock, resolves: Callable[..., None]
) -> None:
    port = await listening(answering())
    resolves("bücher.example", "127.0.0.1")
    for scheme in ("http", "tcp"):
        assert await problem(f"{scheme}://bücher.example:{port}/") == ""


def tls(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


@pytest.mark.parametrize("address", LOOPBACKS)
async def test_https_with_a_certificate_of_a_known_authority_is_well(
    listening: LeaseClock, certificate: Certificate, resolves: Callable[..., None], address: str
) -> None:
    """By address, and by a name whose address the connection is made to."""
    port = await listening(answering(), host=address, ssl=tls(certificate))
    resolves("instance.example", address)
    for host in (in_url(address), "instance.example"):
        assert await problem(f"https://{host}:{port}/", authorities=certificate.certificate) == ""


async def test_https_says_the_name_that_it_looks_for(
    listening: LeaseClock, certificate: Certificate, resolves: Callable[..., None]
) -> None:
    asked: list[str | None] = []
    context = tls(certificate)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    port = await listening(answering(), ssl=context)
    resolves("instance.example", "127.0.0.1")
    assert await problem(f"https://instance.example:{port}/", authorities=certificate.certificate) == ""
    assert asked == ["instance.example"]


async def test_a_certificate_of_nobody_known_is_not_well(listening: LeaseClock, certificate: Certificate) -> None:
    port = await listening(answering(), ssl=tls(certificate))
    assert "CERTIFICATE_VERIFY_FAILED" in await problem(f"https://127.0.0.1:{port}/")


async def test_a_certificate_for_another_name_is_not_well(
    listening: LeaseClock, certificate: Certificate, resolves: Callable[..., None]
) -> None:
    port = await listening(answering(), ssl=tls(certificate))
    resolves("another.example", "127.0.0.1")
    found = await problem(f"https://another.example:{port}/", authorities=certificate.certificate)
    assert "another.example" in found


async def test_a_scheme_that_no_probe_knows_is_not_well() -> None:
    assert "can't be checked" in await problem("ftp://127.0.0.1:21/")
