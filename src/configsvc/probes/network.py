"""Looks over http, https and tcp. The URL comes from outside, so the address is judged before anything is sent to it.

The name is resolved here, the address checked, and the connection made to that very address: a name that resolves to
something else a moment later (DNS rebinding) reaches nothing. No redirects, and little of the answer is read.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

import httpx

from configsvc.probes.port import Probe, ProbeFailedError

# A health answer is a status; what comes with it is of no use here.
ANSWER_BYTES = 65_536
DEFAULT_PORTS = {"http": 80, "https": 443}


class AddressFilter:
    """Which addresses may be looked at."""

    def __init__(self, denied: Sequence[IPv4Network | IPv6Network]) -> None:
        self._denied = tuple(denied)

    async def resolve(self, host: str, port: int) -> str:
        """The first address of a host. Raises `ProbeFailedError` where any of its addresses is denied."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ProbeFailedError(f"'{host}' can't be resolved: {error.strerror}") from error
        addresses = [str(entry[4][0]) for entry in found]
        for text in addresses:
            address = ip_address(text.partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None) or address
            if mapped.is_multicast or mapped.is_unspecified or mapped.is_link_local:
                raise ProbeFailedError(f"the address {text} of '{host}' is never checked")
            if any(mapped.version == network.version and mapped in network for network in self._denied):
                raise ProbeFailedError(f"the address {text} of '{host}' is in HEALTH_CHECK_DENIED_NETWORKS")
        return addresses[0]


class HttpProbe:
    """A GET; any 2xx status is well."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds

    async def look(self, url: str) -> None:
        """See the port."""
        parts = urlsplit(url)
        host, port = _target(parts)
        address = await self._addresses.resolve(host, port)
        pinned = httpx.URL(url).copy_with(host=address)
        # The name still counts for the certificate and for virtual hosts.
        extensions = {"sni_hostname": host}
        headers = {"host": parts.netloc, "user-agent": "configsvc-health-check"}
        try:
            async with (
                httpx.AsyncClient(timeout=self._timeout_seconds, follow_redirects=False, trust_env=False) as client,
                client.stream("GET", pinned, headers=headers, extensions=extensions) as answer,
            ):
                if not answer.is_success:
                    raise ProbeFailedError(f"it answered {answer.status_code}")
                read = 0
                async for chunk in answer.aiter_raw():
                    read += len(chunk)
                    if read > ANSWER_BYTES:
                        break
        except httpx.HTTPError as error:
            raise ProbeFailedError(f"{type(error).__name__}: {error}") from error


class TcpProbe:
    """A connection that is accepted is well."""

    def __init__(self, addresses: AddressFilter) -> None:
        self._addresses = addresses

    async def look(self, url: str) -> None:
        """See the port."""
        host, port = _target(urlsplit(url))
        address = await self._addresses.resolve(host, port)
        try:
            _, writer = await asyncio.open_connection(address, port)
        except OSError as error:
            raise ProbeFailedError(f"no connection: {error.strerror or error}") from error
        writer.close()


class SchemeProbe:
    """Looks by the URL's scheme, within a time-out over all."""

    def __init__(self, probes: Mapping[str, Probe], timeout_seconds: float) -> None:
        self._probes = probes
        self._timeout_seconds = timeout_seconds

    async def look(self, url: str) -> None:
        """See the port."""
        probe = self._probes.get(urlsplit(url).scheme)
        if probe is None:
            raise ProbeFailedError(f"'{url}' can't be checked")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await probe.look(url)
        except TimeoutError as error:
            raise ProbeFailedError(f"no answer within {self._timeout_seconds:g} s") from error


def _target(parts: SplitResult) -> tuple[str, int]:
    return parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
