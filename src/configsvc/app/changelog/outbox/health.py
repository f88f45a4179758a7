"""The health of publishing: how many changes wait, since when and why, and which events were published incomplete.

All of it is read from the store. So every replica shows the same, even while the one that publishes hangs.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from configsvc.clock import Clock
from configsvc.errors import ServiceError
from configsvc.storage.port import Outbox, OutboxStatus

# A change that has waited this long is late: normally an event is published within milliseconds.
LATE = timedelta(seconds=5)
# A shorter wait is not mentioned: under load some change is always waiting.
SHORT = timedelta(seconds=1)


class OutboxHealth:
    """Adds the state of the outbox to the health of the bus. `ping` is the bus's own."""

    def __init__(self, ping: Callable[[], Awaitable[None]], outbox: Outbox, clock: Clock) -> None:
        self._ping = ping
        self._outbox = outbox
        self._clock = clock
        # As of the last ping; None if the storage could not be read.
        self._status: OutboxStatus | None = None

    async def ping(self) -> None:
        """Raises `Unavailable` if the bus can't be reached."""
        try:
            self._status = await self._outbox.outbox_status()
        except ServiceError:
            # The storage component shows it.
            self._status = None
        await self._ping()

    async def effect(self) -> str:
        """What it means that the bus can't be reached."""
        if self._status is None:
            return "changes wait in the outbox"
        return _joined(_waiting(self._status), _losses(self._status))

    def degradation(self) -> str:
        """Why publishing is degraded although the bus answers: changes have waited for too long. Empty if they have not."""
        status = self._status
        if status is None or self._age(status) < LATE:
            return ""
        return _joined(status.failure or "events leave late", _waiting(status), _losses(status))

    def note(self) -> str:
        """What was published incomplete, and what has waited for a moment."""
        status = self._status
        if status is None:
            return ""
        return _joined(_waiting(status) if self._age(status) >= SHORT else "", _losses(status))

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
