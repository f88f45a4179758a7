"""Probes for http, https and tcp. They follow no redirects, use no proxies, and read little of the answer.

https certificates are verified as a caller of the instance would do it: an expired certificate, or one for another name or
by an unknown authority, fails every caller. So an instance that shows one is not healthy.
"""

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import httpx

from configsvc.probes.address_filter import AddressFilter, ConnectFailedError
from configsvc.probes.port import Probe, ProbeFailedError, ProbeUnansweredError

# The status is the answer. The body is of no use.
ANSWER_BYTES = 65_536
DEFAULT_PORTS = {"http": 80, "https": 443}


def wire_url(url: str) -> httpx.URL:
    """The URL as it is sent: `raw_host` and `netloc` are ASCII. Raises `ProbeFailedError` if it can't be sent."""
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ProbeFailedError(f"it can't be asked: {error}") from error


class HttpProbe:
    """A GET request. Any 2xx status is healthy.

    `authorities`: a file of certificates that are trusted in addition to the system's, or empty.
    """

    def __init__(self, addresses: AddressFilter, timeout_seconds: float, authorities: str = "") -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds
        # Made once: loading the authorities takes about 18 ms, on the event loop.
        self._tls = ssl.create_default_context()
        if authorities:
            self._tls.load_verify_locations(authorities)

    async def check(self, url: str) -> None:
        """One request to each address, until one is reached."""
        host, port = _target(urlsplit(url))
        seconds = self._timeout_seconds

        async def attempt(address: str, address_count: int) -> None:
            async with httpx.AsyncClient(
                timeout=httpx.Timeout(seconds, connect=seconds / address_count),
                verify=self._tls,
                follow_redirects=False,
                trust_env=False,
            ) as client:
                await self._request(client, wire_url(url), address)

        await self._addresses.connect(host, port, attempt)

    async def _request(self, client: httpx.AsyncClient, url: httpx.URL, address: str) -> None:
        # The connection goes to the address. The certificate and virtual hosts need the name.
        headers = {"host": url.netloc.decode("ascii"), "user-agent": "configsvc-health-check"}
        extensions = {"sni_hostname": url.raw_host.decode("ascii")}
        pinned = url.copy_with(host=address)
        try:
            async with client.stream("GET", pinned, headers=headers, extensions=extensions) as answer:
                if not answer.is_success:
                    raise ProbeFailedError(f"it answered {answer.status_code}")
                read_bytes = 0
                async for chunk in answer.aiter_raw():
                    read_bytes += len(chunk)
                    if read_bytes > ANSWER_BYTES:
                        break
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectFailedError(f"no connection: {error or type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise ProbeUnansweredError(f"{type(error).__name__}: {error}") from error


class TcpProbe:
    """A connection. An instance that accepts it is healthy."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds

    async def check(self, url: str) -> None:
        """One connection to each address, until one is accepted."""
        host, port = _target(urlsplit(url))

        async def attempt(address: str, address_count: int) -> None:
            try:
                async with asyncio.timeout(self._timeout_seconds / address_count):
                    _, writer = await asyncio.open_connection(address, port)
            except OSError as error:
                # TimeoutError is an OSError.
                raise ConnectFailedError(f"no connection: {error.strerror or 'no answer in time'}") from error
            writer.close()

        await self._addresses.connect(host, port, attempt)


class SchemeProbe:
    """Chooses the probe by the URL's scheme, and bounds the whole check in time."""

    def __init__(self, probes: Mapping[str, Probe], timeout_seconds: float) -> None:
        self._probes = probes
        self._timeout_seconds = timeout_seconds

    async def check(self, url: str) -> None:
        """One check by the scheme's probe."""
        probe = self._probes.get(urlsplit(url).scheme)
        if probe is None:
            raise ProbeFailedError(f"'{url}' can't be checked")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await probe.check(url)
        except TimeoutError as error:
            raise ProbeUnansweredError(f"no answer within {self._timeout_seconds:g} s") from error


def _target(parts: SplitResult) -> tuple[str, int]:
    return parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
