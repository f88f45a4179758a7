"""Many connections, and peers that don't keep to the protocol."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import grpc
import pytest

from tests.e2e import raw
from tests.rpc.engine.conftest import Methods, within
from tests.rpc.engines import MAX_REQUEST_BYTES

CONNECTIONS = 2_000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def open_idle(port: int, number: int) -> list[socket.socket]:
    """Connections that have said that they speak HTTP/2, and whose server has answered."""
    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(number):
        connection = socket.socket()
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, PREFACE + b"\0\0\0\x04\0\0\0\0\0")
        opened.append(connection)
    for connection in opened:
        assert await within(loop.sock_recv(connection, 9))
    return opened


async def test_thousands_of_connections_are_open_at_once(address: str, channel: Any) -> None:
    connections = await open_idle(port_of(address), CONNECTIONS)
    try:
        assert await within(channel.unary_unary("/test.T/Echo")(b"m")) == b"m"
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as another:
            echo: Any = another.unary_unary("/test.T/Echo")
            assert await within(echo(b"m")) == b"m"
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        PREFACE + b"\xff" * 100,
        # HEADERS whose block is not HPACK.
        PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
        # DATA of a stream that was never opened.
        PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x01\0\x01\0\0\0\x09x",
        # A window that becomes too large.
        PREFACE + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\xff\xff",
    ],
    ids=["http1", "tls", "noise", "hpack", "idle_stream", "window"],
)
async def test_peer_that_breaks_the_protocol_harms_only_itself(address: str, channel: Any, bytes_sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(address))
    writer.write(bytes_sent)
    # The server closes the connection, or resets it.
    with suppress(OSError):
        await writer.drain()
        writer.write_eof()
        await within(reader.read())
    writer.close()
    assert await channel.unary_unary("/test.T/Echo")(b"m") == b"m"


async def answered(port: int, path: bytes, body: bytes) -> bool:
    """Whether the server ends this call, in whatever way."""
    call = asyncio.create_task(asyncio.to_thread(raw.http2, port, path, GRPC, body, give_up_seconds=1))
    await asyncio.wait([call])
    return not isinstance(call.exception(), TimeoutError)


@pytest.mark.parametrize("path", [b"", b"no slash", b"//", b"/test.T/Echo/x", b"/test.T", b"/test.T/" + b"x" * 100])
async def test_odd_path_is_refused_and_others_are_answered(address: str, channel: Any, path: bytes) -> None:
    assert await answered(port_of(address), path, raw.framed(b""))
    assert await channel.unary_unary("/test.T/Echo")(b"m") == b"m"


@pytest.mark.parametrize("path", [b"/test.T/\xff\xfe", b"/test.T/Echo/\x80"])
async def test_path_that_is_not_utf8_does_not_end_the_service(address: str, channel: Any, path: bytes) -> None:
    """It ends the server of grpc.aio 1.85, and the engine starts another. Calls that run go on."""
    chat = channel.stream_stream("/test.T/Chat")()
    await chat.write(b"a")
    assert await within(chat.read()) == b"a"
    for _ in range(2):
        await answered(port_of(address), path, raw.framed(b""))
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as another:
            echo: Any = another.unary_unary("/test.T/Echo")
            assert await within(echo(b"m", wait_for_ready=True)) == b"m"
    await chat.write(b"b")
    assert await within(chat.read()) == b"b"
    await chat.done_writing()


@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0", b"\0\0\0\0\x05abc", b"\x01\0\0\0\x03abc", b"\x07\0\0\0\x03abc", b"\0\xff\xff\xff\xffabc"]
)
async def test_malformed_frame_is_refused_and_others_are_answered(
    kind: str, address: str, channel: Any, body: bytes
) -> None:
    is_cut = len(body) < 5 or (body[0] == 0 and len(body) - 5 < int.from_bytes(body[1:5]) <= MAX_REQUEST_BYTES)
    # grpc.aio ignores a message that is cut: the caller waits until its deadline.
    assert await answered(port_of(address), b"/test.T/Echo", body) or (kind == "grpcio" and is_cut)
    assert await channel.unary_unary("/test.T/Echo")(b"m") == b"m"


async def test_unary_call_needs_no_half_close(address: str, channel: Any, methods: Methods, kind: str) -> None:
    """A caller that sends its message and leaves its side open."""
    call = channel.stream_unary("/test.T/Echo")()
    await call.write(b"m")
    await asyncio.wait([waiting := asyncio.ensure_future(call)], timeout=1)
    # The native engine waits for the end of the request. Both answer then.
    assert waiting.done() == (kind == "grpcio")
    await call.done_writing()
    assert await within(waiting) == b"m"
