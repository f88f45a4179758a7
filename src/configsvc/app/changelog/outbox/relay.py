"""The outbox's relay: publishes the change log in the order of revisions, one replica at a time (docs/architecture.md, law 4).

The order is: publish, wait for acknowledgements, then move the durable cursor over the whole revisions before the first
event that was not acknowledged. If anything fails in between, the events after the cursor are published again: at least
once, never not at all. While the lease is held, an acknowledged event is not published again.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from configsvc.backoff import Backoff
from configsvc.bus.port import Publisher, Receipt
from configsvc.clock import Clock, wait_within
from configsvc.domain.events import Delivery, EventLoss
from configsvc.domain.records import Change
from configsvc.errors import RevisionOutOfRange, ServiceError, Unavailable
from configsvc.storage.port import Log, Outbox, OutboxLease
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# The changes of one read of the log; large changes are also bounded in bytes.
READ_CHANGES = 500
# Without a notification of a change, an event is at most this late.
WAIT_SECONDS = 1.0
# How often the lease holder shows that it is alive while it publishes.
KEEP_ALIVE_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class PublishFailure:
    """Why nothing is published, and since when."""

    since: datetime
    reason: str


class OutboxRelay:
    """Works while its context is open, on every replica. The replicas without the lease wait for it."""

    def __init__(
        self, *, outbox: Outbox, log: Log, publisher: Publisher, clock: Clock, supervisor: Supervisor | None = None
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._outbox = outbox
        self._log = log
        self._publisher = publisher
        self._clock = clock
        self._task: SupervisedTask | None = None
        # This replica knows that everything up to here is published.
        self.published = 0
        self.failure: PublishFailure | None = None
        # The changes up to `_read_to` that are not settled, in order.
        self._pending: list[Change] = []
        self._read_to = 0
        # The losses after the cursor.
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
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            try:
                async with self._outbox.outbox_lease() as lease:
                    self.failure = None
                    # Another replica may have published since this one held the lease.
                    self.published = self._read_to = await lease.published()
                    self._pending, self._losses = [], []
                    backoff.reset()
                    await self._publish(lease)
            except ServiceError as error:
                self._record_failure(error)
            except Exception as error:
                logger.exception("the outbox relay failed, and acquires the lease again")
                self._record_failure(error)
            await self._clock.sleep(backoff.next())

    async def _publish(self, lease: OutboxLease) -> None:
        """Publishes what is pending, for as long as the lease is held."""
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        reported = ""
        while True:
            if not self._pending:
                self._pending = list(await self._read_pending())
            if not self._pending:
                self._clear_failure()
                await lease.wait_for_changes(WAIT_SECONDS)
                continue
            receipt = await self._publish_batch(lease)
            if receipt.deliveries:
                await self._settle(lease, receipt.deliveries)
                backoff.reset()
                reported = ""
            if receipt.problem is None:
                self._clear_failure()
                continue
            self._record_failure(receipt.problem)
            if str(receipt.problem) != reported:
                reported = str(receipt.problem)
                await lease.report_failure(reported)
            # The lease is kept: another replica would most likely not reach the broker either.
            await self._clock.sleep(backoff.next())
            await lease.keep_alive()

    async def _publish_batch(self, lease: OutboxLease) -> Receipt:
        """Publishes one batch, however long that takes, and keeps the lease meanwhile."""
        publishing = asyncio.create_task(self._publisher.publish(self._pending), name="publishing")
        try:
            while not await wait_within(self._clock, KEEP_ALIVE_SECONDS, publishing):
                await lease.keep_alive()
            return publishing.result()
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)

    async def _settle(self, lease: OutboxLease, deliveries: Sequence[Delivery]) -> None:
        """Removes settled changes, and moves the cursor over the whole revisions before the first pending one."""
        settled = {(delivery.change.revision, delivery.change.ordinal) for delivery in deliveries}
        self._pending = [change for change in self._pending if (change.revision, change.ordinal) not in settled]
        losses = [delivery.loss for delivery in deliveries if delivery.loss is not None]
        for loss in losses:
            logger.warning("an event is incomplete: %s", loss)
        self._losses += losses
        published = self._pending[0].revision - 1 if self._pending else self._read_to
        if published > self.published:
            # The losses are stored together with the cursor, so that each is counted once.
            await lease.advance(published, [loss for loss in self._losses if loss.revision <= published])
            self.published = published
            self._losses = [loss for loss in self._losses if loss.revision > published]

    async def _read_pending(self) -> Sequence[Change]:
        try:
            changes = await self._log.read(self._read_to, READ_CHANGES)
        except RevisionOutOfRange:
            state = await self._log.state()
            if self._read_to > state.head:
                # An older backup was restored. Its own cursor is the right one, and the next lease reads it.
                raise Unavailable("the log ends before what was published", "LOG_DIVERGED") from None
            # The bus is new to this database, and the oldest changes were compacted away: the rest is published.
            self.published = self._read_to = state.compacted
            changes = await self._log.read(self._read_to, READ_CHANGES)
        if changes:
            self._read_to = changes[-1].revision
        return changes

    def _record_failure(self, error: Exception) -> None:
        if self.failure is None:
            logger.warning("changes are not published: %s", error)
            self.failure = PublishFailure(self._clock.now(), str(error))

    def _clear_failure(self) -> None:
        if self.failure is not None:
            logger.info("changes are published again; they were not since %s", self.failure.since.isoformat())
            self.failure = None
