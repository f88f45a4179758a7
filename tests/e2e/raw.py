"""Requests byte by byte, as no well-behaved client sends them."""

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
    """What came back. A name that comes twice has its last value."""

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
    """Sends one request and reads its answer. `path` as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: " + host]
    lines += [name + b": " + value for name, value in headers]
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        return answer_on(connection, method)


def answer_on(connection: socket.socket, method: str = "POST") -> Answer:
    """Reads one answer: as long as it says, or until the server closes."""
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        response.close()


def framed(message: bytes) -> bytes:
    """A gRPC message as it goes over the wire, not compressed."""
    return b"\0" + struct.pack(">I", len(message)) + message


def grpc_web(port: int, method: str, body: bytes, headers: Headers = ()) -> Answer:
    """A gRPC call as gRPC-Web. `method`: with its service."""
    own = [(b"content-type", GRPC_WEB), (b"content-length", str(len(body)).encode())]
    return request(port, "POST", f"/{method}", [*own, *headers], body)
