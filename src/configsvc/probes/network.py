"""Looks over http, https and tcp. The URL comes from outside, so the address is judged before anything is sent to it.

The name is resolved here, every address that it has is checked, and the connection made to one of those very addresses:
a name that resolves to something else a moment later (DNS rebinding) reaches nothing. Addresses are tried in the order
that the resolver gives, as any client does: `localhost` may be ::1 first, with nothing listening there. No redirects, no
proxies, and little of the answer is read.

https is verified as a caller of the instance would: a certificate that has run out, is for another name, or is signed by
nobody known fails every caller, so an instance that shows one is not well.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

import httpx

from configsvc.probes.port import Probe, ProbeFailedError

# A health answer is a status; what comes with it is of no use here.
ANSWER_BYTES = 65_536
DEFAULT_PORTS = {"http": 80, "https": 443}
# Where a gateway translates to IPv4 (RFC 6052): the last 32 bits are the address that is reached.
NAT64 = ip_network("64:ff9b::/96")


class AddressFilter:
    """Which addresses may be looked at."""

    def __init__(self, denied: Sequence[IPv4Network | IPv6Network]) -> None:
        self._denied = tuple(denied)

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses of a host, at least one. Raises `ProbeFailedError` where any of them is denied."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ProbeFailedError(f"'{host}' can't be resolved: {error.strerror}") from error
        except UnicodeError as error:
            # A label of more than 63 characters, or what no name may have.
            raise ProbeFailedError(f"'{host}' is no name of a host") from error
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        for text in addresses:
            address = ip_address(text.partition("%")[0])
            for meant in {address, _reached(address)}:
                if meant.is_multicast or meant.is_unspecified or meant.is_link_local:
                    raise ProbeFailedError(f"the address {text} of '{host}' is never checked")
                if any(meant.version == network.version and meant in network for network in self._denied):
                    raise ProbeFailedError(f"the address {text} of '{host}' is in HEALTH_CHECK_DENIED_NETWORKS")
        return addresses


class NotReachedError(ProbeFailedError):
    """There is no connection to this address; another may do."""


async def first_reached(addresses: Sequence[str], look: Callable[[str], Awaitable[None]]) -> None:
    """Looks at one address after the other, until one is reached."""
    for address in addresses[:-1]:
        try:
            return await look(address)
        except NotReachedError:
            continue
    return await look(addresses[-1])


def asked_of(url: str) -> httpx.URL:
    """The URL as it goes on the wire: `raw_host` and `netloc` are ASCII. Raises `ProbeFailedError` where it can't."""
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ProbeFailedError(f"it can't be asked: {error}") from error


class HttpProbe:
    """A GET; any 2xx status is well. `authorities`: a file of certificates to trust beside the system's, or empty."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float, authorities: str = "") -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds
        # Made once: reading the authorities took 18 ms here, and it would be on the loop.
        self._tls = ssl.create_default_context()
        if authorities:
            self._tls.load_verify_locations(authorities)

    async def look(self, url: str) -> None:
        """See the port."""
        asked = asked_of(url)
        host, port = _target(urlsplit(url))
        addresses = await self._addresses.resolve(host, port)
        seconds = self._timeout_seconds
        async with httpx.AsyncClient(
            timeout=httpx.Timeout(seconds, connect=seconds / len(addresses)),
            verify=self._tls,
            follow_redirects=False,
            trust_env=False,
        ) as client:
            await first_reached(addresses, lambda address: self._ask(client, asked, address))

    async def _ask(self, client: httpx.AsyncClient, asked: httpx.URL, address: str) -> None:
        # The name still counts for the certificate and for virtual hosts.
        headers = {"host": asked.netloc.decode("ascii"), "user-agent": "configsvc-health-check"}
        extensions = {"sni_hostname": asked.raw_host.decode("ascii")}
        pinned = asked.copy_with(host=address)
        try:
            async with client.stream("GET", pinned, headers=headers, extensions=extensions) as answer:
                if not answer.is_success:
                    raise ProbeFailedError(f"it answered {answer.status_code}")
                read = 0
                async for chunk in answer.aiter_raw():
                    read += len(chunk)
                    if read > ANSWER_BYTES:
                        break
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotReachedError(f"no connection: {error or type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise ProbeFailedError(f"{type(error).__name__}: {error}") from error


class TcpProbe:
    """A connection that is accepted is well."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds

    async def look(self, url: str) -> None:
        """See the port."""
        host, port = _target(urlsplit(url))
        addresses = await self._addresses.resolve(host, port)

        async def connect(address: str) -> None:
            try:
                async with asyncio.timeout(self._timeout_seconds / len(addresses)):
                    _, writer = await asyncio.open_connection(address, port)
            except OSError as error:
                # TimeoutError is one.
                raise NotReachedError(f"no connection: {error.strerror or 'no answer in time'}") from error
            writer.close()

        await first_reached(addresses, connect)


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


def _reached(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
