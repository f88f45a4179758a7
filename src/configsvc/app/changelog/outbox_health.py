"""What each replica tells of the outbox: what waits, since when and why, and what left incomplete.

All of it is read from the store, so that every replica tells the same, also while the one that publishes hangs.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from configsvc.clock import Clock
from configsvc.errors import ServiceError
from configsvc.storage.port import Outbox, OutboxStatus

# A change that waits for longer is late: without trouble an event leaves in milliseconds.
LATE = timedelta(seconds=5)
# What waits for less is not worth a word: under load something always does.
SHORT = timedelta(seconds=1)


class OutboxHealth:
    """The bus as a part of the health board, where events leave through the outbox. `ping` is the bus's own."""

    def __init__(self, ping: Callable[[], Awaitable[None]], outbox: Outbox, clock: Clock) -> None:
        self._ping = ping
        self._outbox = outbox
        self._clock = clock
        # As of the last look; None: the storage did not tell.
        self._status: OutboxStatus | None = None

    async def ping(self) -> None:
        """Raises `Unavailable` if the bus is away."""
        await self._look()
        await self._ping()

    async def effect(self) -> str:
        """What it means that the bus is away."""
        if self._status is None:
            return "changes wait in the outbox"
        return _joined(_waiting(self._status), _losses(self._status))

    def trouble(self) -> str:
        """Says so if the bus is there, and changes wait for too long all the same."""
        status = self._status
        if status is None or self._age(status) < LATE:
            return ""
        return _joined(status.failure or "events leave late", _waiting(status), _losses(status))

    def note(self) -> str:
        """What left incomplete, and what waits for a moment."""
        status = self._status
        if status is None:
            return ""
        return _joined(_waiting(status) if self._age(status) >= SHORT else "", _losses(status))

    async def _look(self) -> None:
        try:
            self._status = await self._outbox.outbox_status()
        except ServiceError:
            # The storage's own part tells.
            self._status = None

    def _age(self, status: OutboxStatus) -> timedelta:
        if status.waiting_since is None:
            return timedelta(0)
        return self._clock.now() - status.waiting_since


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def _waiting(status: OutboxStatus) -> str:
    if status.waiting_since is None:
        return "0 changes waiting"
    return f"{status.waiting} changes waiting, the oldest since {status.waiting_since.isoformat()}"


def _losses(status: OutboxStatus) -> str:
    if status.last_loss is None:
        return ""
    counts = f"{status.reduced} events were published incomplete, {status.skipped} not at all"
    return (
        f"{counts}; the last: {status.last_loss}. Raise the topic's max.message.bytes for the next ones; read these"
        " resources from this service"
    )
