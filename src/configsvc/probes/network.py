"""Looks over http, https and tcp. The URL comes from outside, so the address is judged before anything is sent to it.

The name is resolved here, every address that it has is checked, and the connection made to one of those very addresses:
a name that resolves to something else a moment later (DNS rebinding) reaches nothing. Addresses are tried in the order
that the resolver gives, as any client does: `localhost` may be ::1 first, with nothing listening there. No redirects, no
proxies, and little of the answer is read.

https is verified as a caller of the instance would: a certificate that has run out, is for another name, or is signed by
nobody known fails every caller, so an instance that shows one is not well.
"""

import asyncio
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import httpx

from configsvc.domain.addresses import AddressRules, Network, literal
from configsvc.probes.port import Probe, ProbeBusyError, ProbeFailedError, ProbeUnansweredError
from configsvc.probes.targets import Targets

# A health answer is a status; what comes with it is of no use here.
ANSWER_BYTES = 65_536
DEFAULT_PORTS = {"http": 80, "https": 443}
# Names that are looked up at the same time: the system has few threads for it, and a lookup can't be ended.
RESOLVED_TOGETHER = 4
# Names whose last addresses are kept for when no lookup can begin. They are judged again each time.
KNOWN_NAMES = 4_096

logger = logging.getLogger(__name__)


class AddressFilter:
    """Which addresses may be looked at, and by how many at the same time."""

    def __init__(
        self, denied: Sequence[Network] = (), *, allows_private: bool = True, targets: Targets | None = None
    ) -> None:
        self._rules = AddressRules(tuple(denied), allows_private)
        self._targets = targets or Targets()
        self._resolving: dict[tuple[str, int], asyncio.Task[tuple[str, ...]]] = {}
        self._known: OrderedDict[tuple[str, int], tuple[str, ...]] = OrderedDict()

    async def reach(self, host: str, port: int, look: Callable[[str, int], Awaitable[None]]) -> None:
        """Looks at one address of a host after the other, until one is reached: `look(address, of_how_many)`.

        Raises `ProbeFailedError` if any of them may not be looked at, and then none is; `ProbeBusyError`.
        """
        addresses = await self._addresses(host, port)
        for address in addresses:
            # One host may be written in many ways and have many names: what is judged here is where the look goes.
            refusal = self._rules.refusal(ip_address(address.partition("%")[0]))
            if refusal:
                logger.info("the address %s of '%s' %s", address, host, refusal)
                raise ProbeFailedError(f"its address {refusal}")
        for number, address in enumerate(addresses, 1):
            async with self._targets.visited(address, port):
                try:
                    return await look(address, len(addresses))
                except NotReachedError:
                    if number == len(addresses):
                        raise

    async def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses of a host, at least one."""
        if (address := literal(host)) is not None:
            return (str(address),)
        name = (host, port)
        if name not in self._resolving:
            if len(self._resolving) >= RESOLVED_TOGETHER:
                # Names whose servers never answer must not hold up the others.
                if name in self._known:
                    return self._known[name]
                raise ProbeBusyError
            task = self._resolving[name] = asyncio.create_task(_resolved(host, port))
            task.add_done_callback(lambda done: self._has_resolved(name, done))
        # The system goes on looking for it, though this look has no more time; until it ends it counts.
        return await asyncio.shield(self._resolving[name])

    def _has_resolved(self, name: tuple[str, int], task: "asyncio.Task[tuple[str, ...]]") -> None:
        del self._resolving[name]
        if not task.cancelled() and task.exception() is None:
            self._known[name] = task.result()
            self._known.move_to_end(name)
            if len(self._known) > KNOWN_NAMES:
                self._known.popitem(last=False)


async def _resolved(host: str, port: int) -> tuple[str, ...]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ProbeUnansweredError(f"'{host}' can't be resolved: {error.strerror}") from error
    except UnicodeError as error:
        # A label of more than 63 characters, or what no name may have.
        raise ProbeUnansweredError(f"'{host}' is no name of a host") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class NotReachedError(ProbeUnansweredError):
    """There is no connection to this address; another may do."""


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

    async def check(self, url: str) -> None:
        """See the port."""
        host, port = _target(urlsplit(url))
        seconds = self._timeout_seconds

        async def ask(address: str, of_how_many: int) -> None:
            async with httpx.AsyncClient(
                timeout=httpx.Timeout(seconds, connect=seconds / of_how_many),
                verify=self._tls,
                follow_redirects=False,
                trust_env=False,
            ) as client:
                await self._ask(client, asked_of(url), address)

        await self._addresses.reach(host, port, ask)

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
            raise ProbeUnansweredError(f"{type(error).__name__}: {error}") from error


class TcpProbe:
    """A connection that is accepted is well."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds

    async def check(self, url: str) -> None:
        """See the port."""
        host, port = _target(urlsplit(url))

        async def connect(address: str, of_how_many: int) -> None:
            try:
                async with asyncio.timeout(self._timeout_seconds / of_how_many):
                    _, writer = await asyncio.open_connection(address, port)
            except OSError as error:
                # TimeoutError is one.
                raise NotReachedError(f"no connection: {error.strerror or 'no answer in time'}") from error
            writer.close()

        await self._addresses.reach(host, port, connect)


class SchemeProbe:
    """Looks by the URL's scheme, within a time-out over all."""

    def __init__(self, probes: Mapping[str, Probe], timeout_seconds: float) -> None:
        self._probes = probes
        self._timeout_seconds = timeout_seconds

    async def check(self, url: str) -> None:
        """See the port."""
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
