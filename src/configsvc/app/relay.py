"""The outbox's relay: publishes the change log, in the order of revisions, one replica at a time (DESIGN, law 4).

The order is: publish, have every event acknowledged, then move the durable cursor. Whatever breaks in between, the
events after the cursor are published again: at least once, never not at all.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from configsvc.background import Kept, Supervisor
from configsvc.bus.publisher import Publisher
from configsvc.clock import Clock
from configsvc.domain.records import Change
from configsvc.errors import RevisionOutOfRange, ServiceError, Unavailable
from configsvc.storage.port import Log, Outbox, Turn

logger = logging.getLogger(__name__)

# One batch: large enough to fill the producer's requests, small enough that a failure repeats little.
PUBLISH_CHANGES = 500
# Where nothing tells of news, this is the most that an event is late.
NEWS_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing is published, and since when."""

    since: datetime
    reason: str


class Relay:
    """Works while its context is open, on each replica; those that do not have the turn wait for it."""

    def __init__(
        self, *, outbox: Outbox, log: Log, publisher: Publisher, clock: Clock, supervisor: Supervisor | None = None
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._outbox = outbox
        self._log = log
        self._publisher = publisher
        self._clock = clock
        self._task: Kept | None = None
        self.has_turn = False
        # Up to where this replica knows that all is published.
        self.published = 0
        self.trouble: Trouble | None = None

    async def __aenter__(self) -> Self:
        self._task = self._supervisor.keep("outbox relay", self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await self._task.end()
            self._task = None

    async def _run(self) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            try:
                async with self._outbox.turn() as turn:
                    self.has_turn, self.trouble = True, None
                    self.published = await turn.published()
                    pause = SHORTEST_PAUSE_SECONDS
                    await self._publish(turn)
            except ServiceError as error:
                self._note(error)
            except Exception as error:
                logger.exception("the relay failed and starts again")
                self._note(error)
            finally:
                self.has_turn = False
            await self._clock.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _publish(self, turn: Turn) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            changes = await self._unpublished()
            if not changes:
                self.trouble = None
                await turn.news(NEWS_SECONDS)
                continue
            try:
                await self._publisher.publish(changes)
            except Unavailable as error:
                # The turn is kept: another replica's way to the broker is no better, most likely. Saying something on
                # it keeps it alive.
                self._note(error)
                await turn.news(random.uniform(pause / 2, pause))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            pause = SHORTEST_PAUSE_SECONDS
            await turn.advance(changes[-1].revision)
            self.published = changes[-1].revision
            if self.trouble is not None:
                logger.info("changes are published again; they were not since %s", self.trouble.since.isoformat())
                self.trouble = None

    async def _unpublished(self) -> Sequence[Change]:
        try:
            return await self._log.read(self.published, PUBLISH_CHANGES)
        except RevisionOutOfRange:
            # The bus is new to this database, and the oldest changes are gone: what is left is published.
            self.published = (await self._log.state()).compacted
            return await self._log.read(self.published, PUBLISH_CHANGES)

    def _note(self, error: Exception) -> None:
        if self.trouble is None:
            logger.warning("changes are not published: %s", error)
            self.trouble = Trouble(self._clock.now(), str(error))
