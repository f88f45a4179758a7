"""What the tests of the outbox's relay share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from configsvc.app.changelog.outbox.relay import KEEP_ALIVE_SECONDS, OutboxRelay
from configsvc.storage.port import Log, Outbox
from tests.app.changelog.memory_publisher import MemoryPublisher
from tests.app.fake_clock import FakeClock

# Reached only if a test fails.
PATIENCE_SECONDS = 30.0


class OutboxLog(Log, Outbox, Protocol):
    """What the relay needs of the storage."""


class SkippingClock(FakeClock):
    """Skips each pause of the relay, and records how long it was."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds == KEEP_ALIVE_SECONDS:
            # The timer beside a batch that is being published. No pause has exactly this length: they are random.
            await super().sleep(seconds)
        else:
            self.pauses.append(seconds)
            self._seconds += seconds
            await asyncio.sleep(0)


@asynccontextmanager
async def running(
    storage: OutboxLog, publisher: MemoryPublisher, clock: FakeClock | None = None
) -> AsyncIterator[OutboxRelay]:
    relay = OutboxRelay(outbox=storage, log=storage, publisher=publisher, clock=clock or SkippingClock())
    async with relay:
        yield relay


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - storage has threads, which settle by themselves
            await asyncio.sleep(0.001)


async def answering_bus() -> None:
    """A `ping` of a bus that answers, although perhaps nothing can be published."""


def revisions(publisher: MemoryPublisher) -> list[int]:
    return [event["revision"] for event in publisher.events]
