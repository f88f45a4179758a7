"""Keeps child processes running: one that ends is started again, after a pause that grows."""

import asyncio
import logging
import os
from collections.abc import Callable

from configsvc.backoff import Backoff
from configsvc.clock import Clock
from configsvc.gateway.children import Child
from configsvc.settings import SettingsError
from configsvc.tasks import BackgroundTasks

logger = logging.getLogger(__name__)

# The pauses before a child that ended is restarted. The longest bounds how long the service is without it once the cause
# is gone.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
# A child that ran for this long was healthy: its next pause is the shortest.
HEALTHY_SECONDS = 10.0


class Keeper:
    """The children of one run. `on_failure` gets the error if restarting a child makes no sense."""

    def __init__(self, clock: Clock, on_failure: Callable[[Exception], None]) -> None:
        self._clock = clock
        self._on_failure = on_failure
        self._tasks = BackgroundTasks("supervisor")
        self._started: list[Child] = []
        self._kept: set[Child] = set()

    async def start(self, child: Child) -> None:
        """Starts a child that is not to be restarted yet. Raises `OSError` if the system can't."""
        await child.start()
        self._started.append(child)

    def keep(self, child: Child) -> None:
        """Restarts a running child from now on whenever it ends."""
        self._kept.add(child)
        self._tasks.start(self._keep_running(child))

    def release(self, child: Child) -> None:
        """Restarts a child no more."""
        self._kept.discard(child)

    async def end(self, child: Child, within_seconds: float) -> None:
        """Stops a child for good."""
        self.release(child)
        await child.stop(within_seconds)
        self._started.remove(child)

    def release_all(self) -> tuple[Child, ...]:
        """Restarts nothing any more; returns the children that may run."""
        self._kept.clear()
        return tuple(self._started)

    def kill_all(self) -> None:
        """Kills all children, without waiting."""
        for child in self.release_all():
            child.kill()

    async def close(self) -> None:
        """Kills what still runs."""
        await self._tasks.stop()
        await asyncio.gather(*(child.kill_and_wait() for child in self.release_all()))

    async def _keep_running(self, child: Child) -> None:
        """Restarts a child whenever it ends. If that makes no sense, ends the run with the error."""
        try:
            await self._restart_whenever_ended(child)
        except Exception as error:
            self._on_failure(error)

    async def _restart_whenever_ended(self, child: Child) -> None:
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            started_at = self._clock.monotonic()
            status = await child.wait()
            if child not in self._kept:
                return
            if status == os.EX_CONFIG:
                # The child has reported what is wrong; it would fail again.
                raise SettingsError([f"{child.name} could not start with these settings"])
            if self._clock.monotonic() - started_at >= HEALTHY_SECONDS:
                backoff.reset()
            if not await self._restarted(child, f"{child.name} ended with status {status}", backoff):
                return

    async def _restarted(self, child: Child, reason: str, backoff: Backoff) -> bool:
        """Starts a child after a pause, as often as it takes. Returns False if the child was released meanwhile."""
        while True:
            pause_seconds = backoff.next()
            logger.error("%s; it is started again in %.1f s", reason, pause_seconds)
            await self._clock.sleep(pause_seconds)
            if child not in self._kept:
                return False
            try:
                await child.start()
                return True
            except OSError as error:
                # The machine lacks processes or memory for now. The other children go on.
                reason = f"{child.name} can't be started: {error}"
