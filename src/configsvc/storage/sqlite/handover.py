"""The hand-over of the database file from a process that stops to the one that replaces it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from configsvc.clock import Clock
from configsvc.errors import Unavailable
from configsvc.storage.sqlite.storage import SqliteStorage

# How long to wait for the lock. A process that stops or was killed may hold it for a moment after its successor started.
HANDOVER_SECONDS = 5.0
# No event tells that the lock is free.
POLL_SECONDS = 0.1


@asynccontextmanager
async def open_after_handover(storage: SqliteStorage, clock: Clock) -> AsyncIterator[SqliteStorage]:
    """Opens the storage. If another process holds the file's lock, waits for it to let go.

    Raises:
        ServiceError: as entering `SqliteStorage`; `STORAGE_IN_USE` only after `HANDOVER_SECONDS`.
    """
    give_up_at = clock.monotonic() + HANDOVER_SECONDS
    async with AsyncExitStack() as stack:
        while True:
            try:
                await stack.enter_async_context(storage)
                break
            except Unavailable as error:
                if error.reason != "STORAGE_IN_USE" or clock.monotonic() > give_up_at:
                    raise
            await clock.sleep(POLL_SECONDS)
        yield storage
