"""What each replica tells of the outbox: what waits, since when and why, and what left incomplete.

All of it is read from the store, so that every replica tells the same, also while the one that publishes hangs.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from configsvc.clock import Clock
from configsvc.errors import ServiceError
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
        # As of the last look; None: the storage did not tell.
        self._backlog: Backlog | None = None

    async def ping(self) -> None:
        """Raises `Unavailable` if the bus is away."""
        await self._look()
        await self._ping()

    async def effect(self) -> str:
        """What it means that the bus is away."""
        if self._backlog is None:
            return "changes wait in the outbox"
        return _joined(_waiting(self._backlog), _losses(self._backlog))

    def trouble(self) -> str:
        """Says so if the bus is there, and changes wait for too long all the same."""
        backlog = self._backlog
        if backlog is None or self._age(backlog) < LATE:
            return ""
        return _joined(backlog.trouble or "events leave late", _waiting(backlog), _losses(backlog))

    def note(self) -> str:
        """What left incomplete, and what waits for a moment."""
        backlog = self._backlog
        if backlog is None:
            return ""
        return _joined(_waiting(backlog) if self._age(backlog) >= SHORT else "", _losses(backlog))

    async def _look(self) -> None:
        try:
            self._backlog = await self._outbox.backlog()
        except ServiceError:
            # The storage's own part tells.
            self._backlog = None

    def _age(self, backlog: Backlog) -> timedelta:
        if backlog.waiting_since is None:
            return timedelta(0)
        return self._clock.now() - backlog.waiting_since


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


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
