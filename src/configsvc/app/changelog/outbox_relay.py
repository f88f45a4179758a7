"""The outbox's relay: publishes the change log, in the order of revisions, one replica at a time (docs/architecture.md, law 4).

The order is: publish, have events acknowledged, then move the durable cursor over the whole revisions before the first
event that is not. Whatever breaks in between, the events after the cursor are published again: at least once, never not
at all. What was acknowledged during one turn is not published again in it.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from configsvc.bus.port import Publisher, Receipt
from configsvc.clock import Clock
from configsvc.domain.events import Delivery, EventLoss
from configsvc.domain.records import Change
from configsvc.errors import RevisionOutOfRange, ServiceError, Unavailable
from configsvc.storage.port import Log, Outbox, OutboxLease
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# What is read of the log at once; large changes are bounded by their bytes.
READ_CHANGES = 500
# If nothing tells of news, this is the most that an event is late.
NEWS_SECONDS = 1.0
# How often the holder of the turn shows that it is alive, while it publishes.
KEEP_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing is published, and since when."""

    since: datetime
    reason: str


class OutboxRelay:
    """Works while its context is open, on each replica; those that do not have the turn wait for it."""

    def __init__(
        self, *, outbox: Outbox, log: Log, publisher: Publisher, clock: Clock, supervisor: Supervisor | None = None
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._outbox = outbox
        self._log = log
        self._publisher = publisher
        self._clock = clock
        self._task: SupervisedTask | None = None
        self.has_turn = False
        # Up to where this replica knows that all is published.
        self.published = 0
        self.trouble: Trouble | None = None
        # What was read from the log, up to `_read_to`, and is not settled.
        self._waiting: list[Change] = []
        self._read_to = 0
        # Of what is settled after the cursor.
        self._losses: list[EventLoss] = []

    async def __aenter__(self) -> Self:
        self._task = self._supervisor.supervise("outbox relay", self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await self._task.stop()
            self._task = None

    async def _run(self) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            try:
                async with self._outbox.outbox_lease() as lease:
                    self.has_turn, self.trouble = True, None
                    # Another replica may have published meanwhile.
                    self.published = self._read_to = await lease.published()
                    self._waiting, self._losses = [], []
                    pause = SHORTEST_PAUSE_SECONDS
                    await self._publish(lease)
            except ServiceError as error:
                self._note(error)
            except Exception as error:
                logger.exception("the relay failed and starts again")
                self._note(error)
            finally:
                self.has_turn = False
            await self._clock.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _publish(self, lease: OutboxLease) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        told = ""
        while True:
            if not self._waiting:
                self._waiting = list(await self._unpublished())
            if not self._waiting:
                self.trouble = None
                await lease.wait_for_changes(NEWS_SECONDS)
                continue
            receipt = await self._kept(lease)
            if receipt.deliveries:
                await self._settle(lease, receipt.deliveries)
                pause, told = SHORTEST_PAUSE_SECONDS, ""
            if receipt.problem is None:
                self._end_trouble()
                continue
            self._note(receipt.problem)
            if str(receipt.problem) != told:
                told = str(receipt.problem)
                await lease.report_failure(told)
            # The turn is kept: another replica's way to the broker is no better, most likely.
            await self._clock.sleep(random.uniform(pause / 2, pause))
            await lease.keep_alive()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _kept(self, lease: OutboxLease) -> Receipt:
        """Publishes, however long that takes, and keeps the turn meanwhile."""
        publishing = asyncio.create_task(self._publisher.publish(self._waiting), name="publishing")
        try:
            while True:
                pause = asyncio.create_task(self._clock.sleep(KEEP_SECONDS), name="pause")
                try:
                    await asyncio.wait({publishing, pause}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    pause.cancel()
                if publishing.done():
                    return publishing.result()
                await lease.keep_alive()
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)

    async def _settle(self, lease: OutboxLease, deliveries: Sequence[Delivery]) -> None:
        """Takes what is settled from what waits, and moves the cursor over the whole revisions before the first."""
        settled = {(delivery.change.revision, delivery.change.ordinal) for delivery in deliveries}
        self._waiting = [change for change in self._waiting if (change.revision, change.ordinal) not in settled]
        losses = [delivery.loss for delivery in deliveries if delivery.loss is not None]
        for loss in losses:
            logger.warning("an event is incomplete: %s", loss)
        self._losses += losses
        published = self._waiting[0].revision - 1 if self._waiting else self._read_to
        if published > self.published:
            # With the cursor, so that each is counted once.
            await lease.advance(published, [loss for loss in self._losses if loss.revision <= published])
            self.published = published
            self._losses = [loss for loss in self._losses if loss.revision > published]

    async def _unpublished(self) -> Sequence[Change]:
        try:
            changes = await self._log.read(self._read_to, READ_CHANGES)
        except RevisionOutOfRange:
            state = await self._log.state()
            if self._read_to > state.head:
                # An older copy was restored. Its own cursor counts, which the next turn reads.
                raise Unavailable("the log ends before what was published", "LOG_DIVERGED") from None
            # The bus is new to this database, and the oldest changes are gone: what is left is published.
            self.published = self._read_to = state.compacted
            changes = await self._log.read(self._read_to, READ_CHANGES)
        if changes:
            self._read_to = changes[-1].revision
        return changes

    def _end_trouble(self) -> None:
        if self.trouble is not None:
            logger.info("changes are published again; they were not since %s", self.trouble.since.isoformat())
            self.trouble = None

    def _note(self, error: Exception) -> None:
        if self.trouble is None:
            logger.warning("changes are not published: %s", error)
            self.trouble = Trouble(self._clock.now(), str(error))
