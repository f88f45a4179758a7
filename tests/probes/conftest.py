"""What the probes look at: real servers on loopback, a certificate made for the test, and a name with addresses.

A resolver can't be had without a server of one's own, so what stands in for it is the loop's `getaddrinfo`, for the one
name that a test makes up.
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

from configsvc.probes.grpc import GrpcProbe
from configsvc.probes.network import AddressFilter, HttpProbe, SchemeProbe, TcpProbe
from configsvc.probes.port import ProbeFailedError, ProbeUnansweredError
from configsvc.probes.targets import Targets
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
    targets: Targets | None = None,
) -> SchemeProbe:
    """All probes, as the service puts them together; `denied`: networks more than the default ones."""
    default = load().health_check_denied_networks
    networks = load(health_check_denied_networks=f"{default},{denied}").denied_networks
    addresses = AddressFilter(networks, allows_private=allows_private, targets=targets)
    http = HttpProbe(addresses, timeout_seconds, authorities)
    tcp, grpc = TcpProbe(addresses, timeout_seconds), GrpcProbe(addresses, timeout_seconds)
    return SchemeProbe({"http": http, "https": http, "tcp": tcp, "grpc": grpc}, timeout_seconds)


class LeaseClock:
    """Starts servers that answer as a handler says; they end with the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.connections = 0

    async def __call__(self, handler: Handler, host: str = "127.0.0.1", **more: Any) -> int:
        """The port."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            try:
                await handler(reader, writer)
            except ConnectionError:
                # The probe has seen enough.
                return
            finally:
                writer.close()

        server = await asyncio.start_server(handle, host, 0, **more)
        self._stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    def unused_port(self) -> int:
        """A port that nobody listens on, and nobody else gets."""
        held = self._stack.enter_context(socket.socket())
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
async def listening() -> AsyncIterator[LeaseClock]:
    async with AsyncExitStack() as stack:
        yield LeaseClock(stack)


@pytest.fixture
async def resolves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`resolves("name", "127.0.0.1", …)`: from now on the name has these addresses."""
    loop = asyncio.get_running_loop()
    known: dict[str, Sequence[str]] = {}
    real = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **more: Any) -> Any:
        if host not in known:
            return await real(host, port, **more)
        found = [await real(address, port, **more) for address in known[host]]
        return [entry for entries in found for entry in entries]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)

    def tell(name: str, *addresses: str) -> None:
        known[name] = addresses

    return tell


async def problem(url: str, **more: Any) -> str:
    """What a look says is wrong; empty where all is well."""
    try:
        await probe(**more).check(url)
    except ProbeUnansweredError as error:
        # The text is the same, whatever it was.
        same = str(error) == str(ProbeUnansweredError("something else"))
        return f"{'unanswered' if same else 'told apart'}: {error.detail}"
    except ProbeFailedError as error:
        return str(error) or "it does not say what"
    return ""
