"""The outbox: how far the change log has been published, and the right to publish it."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from configsvc.domain.events import EventLoss


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """How far the log has been published.

    - `published`: everything up to this revision has been.
    - `waiting`: the number of revisions that have not; the oldest was made at `waiting_since` (None if none waits).
    - `failure`: why nothing can be published, as the last lease holder reported it; empty if publishing works.
    - `reduced`, `skipped`: how many events were published incomplete, and not at all. `last_loss`: the last of them.
    """

    published: int
    waiting: int
    waiting_since: datetime | None
    failure: str
    reduced: int
    skipped: int
    last_loss: EventLoss | None


class OutboxLease(Protocol):
    """The right to publish the log. One process holds it at a time.

    If a call raises `Unavailable`, the lease is lost: release it and acquire a new one.
    """

    async def published(self) -> int:
        """The revision up to which everything has been published; 0 at first. Raises `Unavailable`."""
        ...

    async def advance(self, revision: int, losses: Sequence[EventLoss] = ()) -> None:
        """Stores durably that everything up to `revision` has been published, except `losses`, and clears the failure.

        Raises:
            Unavailable: it could not be stored.
        """
        ...

    async def report_failure(self, reason: str) -> None:
        """Stores why nothing can be published, so that every replica can report it. Raises `Unavailable`."""
        ...

    async def keep_alive(self) -> None:
        """Shows that the holder is alive. Call it about every second. Raises `Unavailable`."""
        ...

    async def wait_for_changes(self, within_seconds: float) -> None:
        """Returns when the log may have grown, or after `within_seconds`. Raises `Unavailable`."""
        ...


class Outbox(Protocol):
    """Publishing progress of the log."""

    async def outbox_status(self) -> OutboxStatus:
        """The status, whichever process holds the lease. Raises `Unavailable`."""
        ...

    def outbox_lease(self) -> AbstractAsyncContextManager[OutboxLease]:
        """Waits for the lease, and holds it while the context is open.

        The holder loses it when its process or its database connection ends, or when it hangs for some seconds.

        Raises:
            Unavailable: the database can't be used.
        """
        ...
