"""Which addresses a probe may connect to. The URL comes from outside, so each address is judged before anything is sent.

The name is resolved here, every address that it has is judged, and the probe connects to one of these addresses: a name
that resolves to another address a moment later (DNS rebinding) reaches nothing.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from configsvc.domain.addresses import AddressRules, Network
from configsvc.probes.port import ProbeFailedError, ProbeUnansweredError
from configsvc.probes.resolver import Resolver
from configsvc.probes.targets import TargetLimiter

logger = logging.getLogger(__name__)


class ConnectFailedError(ProbeUnansweredError):
    """There is no connection to this address. Another address of the host may work."""


# `(address, number of addresses)`: checks one address. Raises `ConnectFailedError` if another should be tried.
Attempt = Callable[[str, int], Awaitable[None]]


class AddressFilter:
    """Connects probes to allowed addresses only, and to few targets at the same time."""

    def __init__(
        self, denied: Sequence[Network] = (), *, allows_private: bool = True, limiter: TargetLimiter | None = None
    ) -> None:
        self._rules = AddressRules(tuple(denied), allows_private)
        self._limiter = limiter or TargetLimiter()
        self._resolver = Resolver()

    async def connect(self, host: str, port: int, attempt: Attempt) -> None:
        """Calls `attempt` for one address of the host after the other, until a connection is made.

        Addresses are tried in the order of the resolver, as other clients do: `localhost` may be ::1 first, where no server
        listens.

        Raises:
            ProbeFailedError: one of the addresses is denied. Then none is tried.
            ProbeBusyError: there is no free slot.
        """
        addresses = await self._resolver.addresses(host, port)
        for address in addresses:
            # A host may be written in many ways, and have many names. So the resolved address is judged.
            refusal = self._rules.refusal(ip_address(address.partition("%")[0]))
            if refusal:
                logger.info("the address %s of '%s' %s", address, host, refusal)
                raise ProbeFailedError(f"its address {refusal}")
        for number, address in enumerate(addresses, 1):
            async with self._limiter.slot(address, port):
                try:
                    return await attempt(address, len(addresses))
                except ConnectFailedError:
                    if number == len(addresses):
                        raise
