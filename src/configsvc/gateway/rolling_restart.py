"""The rolling restart: every worker is replaced by a new process, one after the other, while the service answers.

The new process starts beside the old one. Once it says that it serves, Envoy gets it and calls the old one no more; then the
old one ends its calls and its watches, hands over its instances, and exits. If the new process does not serve, the old one
goes on, and so do the workers after it.

An embedded backend belongs to one process. There the new process gets ready without it; then the old one ends, and the new
one opens the backend. Envoy tries requests of this moment again until the new process answers.
"""

import asyncio
import logging
from collections.abc import Callable

from configsvc.clock import Clock
from configsvc.gateway.endpoints import Endpoints, EndpointsError
from configsvc.gateway.keeper import Keeper
from configsvc.gateway.workers import SERVING, WAITING, Worker, Workers

logger = logging.getLogger(__name__)

# How long a new process has until it serves. A database or a registry that is down keeps it from that.
START_SECONDS = 60.0
# How long a process may take to open an embedded backend until that is reported.
OPEN_SECONDS = 10.0
POLL_SECONDS = 0.02


class _NotReplacedError(Exception):
    """The new process is not used."""


class RollingRestart:
    """Replaces the processes of the workers on request. `stop_seconds` is how long an old process may take to end."""

    def __init__(
        self, workers: Workers, keeper: Keeper, endpoints: Endpoints, clock: Clock, *, stop_seconds: float
    ) -> None:
        self._make = workers
        self._keeper = keeper
        self._endpoints = endpoints
        self._clock = clock
        self._stop_seconds = stop_seconds
        self._workers = workers.first()
        self._requested = asyncio.Event()

    @property
    def addresses(self) -> list[str]:
        """Where the workers answer."""
        return [worker.address for worker in self._workers]

    async def start_workers(self) -> None:
        """Starts the first processes. Raises `OSError` if the system can't."""
        self._endpoints.write(self.addresses)
        for worker in self._workers:
            await self._keeper.start(worker.child)
            self._keeper.keep(worker.child)

    def request(self) -> None:
        """Asks for a restart. If one is under way, another one follows it, since it may have begun with older settings."""
        self._requested.set()

    async def run(self) -> None:
        """Does what is requested, until it is cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            await self._replace_all()

    async def _replace_all(self) -> None:
        started_at = self._clock.monotonic()
        count = len(self._workers)
        logger.info("rolling restart of %d worker%s", count, "s" if count > 1 else "")
        for index, worker in enumerate(self._workers):
            try:
                await self._replace(index, worker)
            except (_NotReplacedError, EndpointsError, OSError) as error:
                logger.error("the rolling restart stops: %s; the workers go on as they are", error)
                return
        logger.info("rolling restart: done after %.1f s", self._clock.monotonic() - started_at)

    async def _replace(self, index: int, old: Worker) -> None:
        new = self._make.successor(old)
        new.state_file.unlink(missing_ok=True)
        await self._keeper.start(new.child)
        try:
            if self._make.take_turns:
                await self._until(new, lambda: new.state() == WAITING, START_SECONDS)
            else:
                await self._until(new, lambda: new.state() == SERVING, START_SECONDS)
                await self._endpoints.replace([*self.addresses, new.address], healthy=new.address)
            self._workers[index] = new
            await self._endpoints.replace(self.addresses)
        except (_NotReplacedError, EndpointsError):
            self._workers[index] = old
            self._endpoints.write(self.addresses)
            await self._keeper.end(new.child, self._stop_seconds)
            raise
        self._keeper.keep(new.child)
        await self._keeper.end(old.child, self._stop_seconds)
        if self._make.take_turns:
            try:
                await self._until(new, lambda: new.state() == SERVING, OPEN_SECONDS)
            except _NotReplacedError as error:
                logger.error("%s; it is kept running", error)

    async def _until(self, worker: Worker, condition: Callable[[], bool], within_seconds: float) -> None:
        give_up_at = self._clock.monotonic() + within_seconds
        while not condition():
            if not worker.child.runs:
                raise _NotReplacedError(f"the new process of {worker.child.name} ended")
            if self._clock.monotonic() >= give_up_at:
                raise _NotReplacedError(
                    f"the new process of {worker.child.name} does not serve after {within_seconds:.0f} s"
                )
            await self._clock.sleep(POLL_SECONDS)
