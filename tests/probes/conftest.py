"""What the probes check: real servers on loopback, a certificate made for the tests, and names with chosen addresses.

A real resolver would need a DNS server. So the loop's `getaddrinfo` is replaced, for the names that a test makes up.
"""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configsvc.probes.address_filter import AddressFilter
from configsvc.probes.grpc import GrpcProbe
from configsvc.probes.network import HttpProbe, SchemeProbe, TcpProbe
from configsvc.probes.port import ProbeFailedError, ProbeUnansweredError
from configsvc.probes.targets import TargetLimiter
from configsvc.settings import load

# Long, so that a loaded machine fails no test. A test of the time-out has a short one of its own.
TIMEOUT_SECONDS = 30.0


def _loopbacks() -> list[str]:
    """The machine's own addresses. Some containers have no IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "::1"]


LOOPBACKS = _loopbacks()
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Certificate:
    """A self-signed one for `instance.example`, 127.0.0.1 and ::1."""

    certificate: str
    key: str


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory: Path = tmp_path_factory.mktemp("certificate")
    made = Certificate(str(directory / "certificate.pem"), str(directory / "key.pem"))
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=instance.example", "-addext", "subjectAltName=DNS:instance.example,IP:127.0.0.1,IP:::1",
            "-keyout", made.key, "-out", made.certificate,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return made


def probe(
    authorities: str = "",
    timeout_seconds: float = TIMEOUT_SECONDS,
    denied: str = "",
    allows_private: bool = True,
    limiter: TargetLimiter | None = None,
) -> SchemeProbe:
    """All probes, assembled as the service does it. `denied`: networks in addition to the default ones."""
    default = load().health_check_denied_networks
    networks = load(health_check_denied_networks=f"{default},{denied}").denied_networks
    addresses = AddressFilter(networks, allows_private=allows_private, limiter=limiter)
    http = HttpProbe(addresses, timeout_seconds, authorities)
    tcp, grpc = TcpProbe(addresses, timeout_seconds), GrpcProbe(addresses, timeout_seconds)
    return SchemeProbe({"http": http, "https": http, "tcp": tcp, "grpc": grpc}, timeout_seconds)


class Servers:
    """Starts servers on loopback; they end with the test. `connections` counts the accepted connections."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.connections = 0

    async def __call__(self, handler: Handler, host: str = "127.0.0.1", **more: Any) -> int:
        """Starts a server with this handler; returns its port."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            try:
                await handler(reader, writer)
            except ConnectionError:
                # The probe has closed the connection.
                return
            finally:
                writer.close()

        server = await asyncio.start_server(handle, host, 0, **more)
        self._stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    def unused_port(self) -> int:
        """A port without a server. It is reserved, so that no other program gets it."""
        held = self._stack.enter_context(socket.socket())
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
async def serve() -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(stack)


@pytest.fixture
async def resolve_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`resolve_to("name", "127.0.0.1", …)`: the name has these addresses from now on."""
    loop = asyncio.get_running_loop()
    known: dict[str, Sequence[str]] = {}
    real = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **more: Any) -> Any:
        if host not in known:
            return await real(host, port, **more)
        found = [await real(address, port, **more) for address in known[host]]
        return [entry for entries in found for entry in entries]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)

    def resolve(name: str, *addresses: str) -> None:
        known[name] = addresses

    return resolve


async def failure_of(url: str, **more: Any) -> str:
    """Why a check fails; empty if it passes."""
    try:
        await probe(**more).check(url)
    except ProbeUnansweredError as error:
        # The text must not tell the reasons apart.
        same = str(error) == str(ProbeUnansweredError("something else"))
        return f"{'unanswered' if same else 'distinguishable'}: {error.detail}"
    except ProbeFailedError as error:
        return str(error) or "no reason given"
    return ""
