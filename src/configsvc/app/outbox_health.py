"""What each replica tells of the outbox: what waits, since when and why, and what left incomplete.

All of it is read from the store, so that every replica tells the same, also while the one that publishes hangs.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from configsvc.clock import Clock
from configsvc.errors import ServiceError, Unavailable
from configsvc.storage.port import Backlog, Outbox

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

    async def ping(self) -> None:
        """Raises `Unavailable` if the bus is away, or changes wait for too long."""
        await self._ping()
        try:
            backlog = await self._outbox.backlog()
        except ServiceError:
            # The storage's own part tells.
            return
        if self._age(backlog) >= LATE:
            raise Unavailable(backlog.trouble or "events leave late")

    async def effect(self) -> str:
        """What waits, and what left incomplete."""
        try:
            backlog = await self._outbox.backlog()
        except ServiceError:
            return "changes wait in the outbox"
        return "; ".join(filter(None, (_waiting(backlog), _losses(backlog))))

    async def note(self) -> str:
        """The same, where it is worth a word though the bus is up."""
        try:
            backlog = await self._outbox.backlog()
        except ServiceError:
            return ""
        waiting = _waiting(backlog) if self._age(backlog) >= SHORT else ""
        return "; ".join(filter(None, (waiting, _losses(backlog))))

    def _age(self, backlog: Backlog) -> timedelta:
        if backlog.waiting_since is None:
            return timedelta(0)
        return self._clock.now() - backlog.waiting_since


def _waiting(backlog: Backlog) -> str:
    if backlog.waiting_since is None:
        return "0 changes waiting"
    return f"{backlog.waiting} changes waiting, the oldest since {backlog.waiting_since.isoformat()}"


def _losses(backlog: Backlog) -> str:
    if backlog.last_loss is None:
        return ""
    counts = f"{backlog.reduced} events were published incomplete, {backlog.skipped} not at all"
    return (
        f"{counts}; the last: {backlog.last_loss}. Raise the topic's max.message.bytes for the next ones; read these"
        " resources from this service"
    )
