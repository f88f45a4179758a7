"""Name resolution for probes: few lookups at the same time, because the system has few threads, and can't cancel one."""

import asyncio
import socket
from collections import OrderedDict

from configsvc.domain.addresses import parse_address
from configsvc.probes.port import ProbeBusyError, ProbeUnansweredError
from configsvc.single_flight import SingleFlight

# Lookups at the same time.
CONCURRENT_LOOKUPS = 4
# Names whose last addresses are kept, for when no lookup can start. Addresses are judged again at each check.
CACHED_NAMES = 4_096

Addresses = tuple[str, ...]


class Resolver:
    """Resolves hosts to addresses. A name that is looked up already is not looked up twice."""

    def __init__(self) -> None:
        self._lookups = SingleFlight[tuple[str, int], Addresses]("lookup")
        self._running: set[tuple[str, int]] = set()
        self._cached: OrderedDict[tuple[str, int], Addresses] = OrderedDict()

    async def addresses(self, host: str, port: int) -> Addresses:
        """At least one address. Raises `ProbeUnansweredError` if there is none, and `ProbeBusyError`."""
        if (address := parse_address(host)) is not None:
            return (str(address),)
        name = (host, port)
        if name not in self._running:
            if len(self._running) >= CONCURRENT_LOOKUPS:
                # Names whose servers never answer must not delay the checks of other names.
                if name in self._cached:
                    return self._cached[name]
                raise ProbeBusyError
            # It counts until it ends, even if the check that needs it has timed out.
            self._running.add(name)
            self._lookups.start(name, lambda: self._look_up(name)).add_done_callback(
                lambda _: self._running.discard(name)
            )
        return await self._lookups.run(name, lambda: self._look_up(name))

    async def _look_up(self, name: tuple[str, int]) -> Addresses:
        found = await _resolve(*name)
        self._cached[name] = found
        self._cached.move_to_end(name)
        if len(self._cached) > CACHED_NAMES:
            self._cached.popitem(last=False)
        return found


async def _resolve(host: str, port: int) -> Addresses:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ProbeUnansweredError(f"'{host}' can't be resolved: {error.strerror}") from error
    except UnicodeError as error:
        # A label of more than 63 characters, or a character that no name may have.
        raise ProbeUnansweredError(f"'{host}' is not a valid host name") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
