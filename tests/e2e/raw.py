"""Sends requests byte by byte, as no well-behaved client would."""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPResponse

# Longer than any time-out of the gateway.
PATIENCE_SECONDS = 60.0
GRPC_WEB = b"application/grpc-web+proto"


@dataclass(frozen=True)
class Answer:
    """One answer. A header that is repeated has its last value."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def grpc_status(self) -> int:
        """From the headers, or from the trailers in a gRPC-Web body."""
        if "grpc-status" in self.headers:
            return int(self.headers["grpc-status"])
        _, _, after = self.body.partition(b"grpc-status:")
        return int(after.split(b"\r\n")[0])


Headers = Sequence[tuple[bytes, bytes]]


def request(
    port: int, method: str, path: str, headers: Headers = (), body: bytes = b"", *, host: bytes = b"localhost"
) -> Answer:
    """Sends one request and reads its answer. `path` is sent as it is."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: " + host]
    lines += [name + b": " + value for name, value in headers]
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        return answer_on(connection, method)


def answer_on(connection: socket.socket, method: str = "POST") -> Answer:
    """Reads one answer: up to its content length, or until the server closes the connection."""
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        response.close()


def framed(message: bytes) -> bytes:
    """A gRPC message in its wire format, not compressed."""
    return b"\0" + struct.pack(">I", len(message)) + message


def grpc_web(port: int, method: str, body: bytes, headers: Headers = ()) -> Answer:
    """Makes a gRPC call as gRPC-Web. `method` includes the service."""
    own = [(b"content-type", GRPC_WEB), (b"content-length", str(len(body)).encode())]
    return request(port, "POST", f"/{method}", [*own, *headers], body)


def http2(
    port: int,
    path: bytes,
    headers: Headers = (),
    body: bytes = b"",
    trailers: Headers = (),
    *,
    give_up_seconds: float = PATIENCE_SECONDS,
) -> bytes:
    """One POST over HTTP/2, followed by trailers; returns the last header block of the answer, encoded by HPACK.

    Fails if the stream is not ended in order.
    """
    pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost")]
    sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _frame(SETTINGS, 0, 0, b""),
        _frame(HEADERS, END_HEADERS, 1, _block([*pseudo, *headers])),
        _frame(DATA, 0 if trailers else END_STREAM, 1, body),
    ]
    if trailers:
        sent.append(_frame(HEADERS, END_HEADERS | END_STREAM, 1, _block(trailers)))
    with socket.create_connection(("127.0.0.1", port), timeout=give_up_seconds) as connection:
        connection.sendall(b"".join(sent))
        reader = connection.makefile("rb")
        block = b""
        while True:
            head = reader.read(9)
            assert head, "the connection was closed"
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            payload = reader.read(int.from_bytes(head[:3]))
            assert kind not in (RST_STREAM, GOAWAY), (kind, payload)
            if stream == 1 and kind == HEADERS:
                block = payload
            if stream == 1 and kind in (HEADERS, DATA) and flags & END_STREAM:
                return block


# RFC 9113, 6.
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _block(headers: Headers) -> bytes:
    """Literals without indexing and without Huffman codes (RFC 7541, 6.2.2), shorter than 127 bytes."""
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in headers)
