"""Is the log still the log that was seen? By whom it is noticed that it is not, and what is done then.

Three remember what they have seen of the log: each replica, what it has applied; the storage, what it has followed or
written (it refuses writes to another log); and the shared cache, how far all replicas had come, which outlives them.
Whoever finds that the log is no continuation of that has the database give it a new history, at once and once for all
(`ResumableLog.new_history_if_diverged`). Then every replica drops what it holds, and what clients hold is refused.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from configsvc.app.changelog.position import LogPosition
from configsvc.cache.port import Cache, CacheEntry
from configsvc.clock import Clock
from configsvc.domain.lineage import Checkpoint, HistoryOrigin, LogState
from configsvc.errors import ServiceError
from configsvc.storage.port import HistoryAdmin, ResumableLog

logger = logging.getLogger(__name__)

# Nobody who asks for the state of the service waits longer for this.
LOOK_SECONDS = 1.0
# Where the mark lies in the shared cache: not under a history, since it says which one is current.
MARK_KEY = "log"
# A service that was off for longer than this finds no mark.
MARK_LIFE = timedelta(days=90)
# The mark is left and looked at this often, and after a change as soon as the pause allows.
MARK_SECONDS, MARK_PAUSE_SECONDS = 15.0, 0.1

WHAT_TO_DO = (
    "Etags, page tokens, resume points and copies of before are refused; watches end with OUT_OF_RANGE and clients read"
    " anew. If an older copy was restored on purpose there is nothing to do (`configsvc new-history` says so in advance)."
    " If not: acknowledged writes are lost, look for a failover to a server that lacked them, or for another database"
    " that shares this one's cache and REDIS_PREFIX."
)


async def compared(log: ResumableLog, seen: Checkpoint) -> LogState:
    """The state of the log, in which `seen` can't be taken for a part of it unless it is one. Raises `Unavailable`."""
    page = await log.resume(seen, 1)
    if page.continues(seen):
        return page.state
    state = page.state
    if state.history != seen.history:
        what = f"the log began its history at revision {state.since}, and {seen.revision} was seen in another"
    elif state.head < seen.revision:
        what = f"the log ended at revision {state.head}, and {seen.revision} had been seen"
    else:
        what = f"the log said something else than was seen at revision {seen.revision}"
    turned = await log.new_history_if_diverged(seen, what)
    if turned.history != state.history:
        logger.error(
            "the database is not the one that it was: %s; its log has a new history, %s, from revision %d on. %s",
            what, turned.history, turned.since, WHAT_TO_DO,
        )  # fmt: skip
    return turned


class OriginBoard:
    """Where the log's history comes from, for people. Read once for each history."""

    def __init__(self, histories: HistoryAdmin, position: LogPosition) -> None:
        self._histories = histories
        self._position = position
        self._known: HistoryOrigin | None = None

    async def look(self) -> HistoryOrigin:
        """The origin; without a reason where the database can't be read."""
        history = self._position.history
        if self._known is None or self._known.history != history:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    self._known = await self._histories.history_origin()
            except (ServiceError, TimeoutError) as error:
                logger.debug("where the log's history comes from can't be read now: %s", error)
        if self._known is None or self._known.history != history:
            return HistoryOrigin(history, self._position.since, "", None)
        at = self._known.made_at.isoformat(timespec="seconds") if self._known.made_at else "some time"
        told = replace(self._known, reason=f"{at}: {self._known.reason}")
        return told if not told.since else replace(told, reason=f"{told.reason}. {WHAT_TO_DO}")


class LogMark:
    """How far replicas have seen the log, left in the shared cache; without one, nowhere."""

    def __init__(self, cache: Cache | None, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._moved = asyncio.Event()

    @property
    def is_kept(self) -> bool:
        """Whether there is a cache to leave it in."""
        return self._cache is not None

    async def find(self) -> Checkpoint | None:
        """The furthest place that a replica has left."""
        if self._cache is None:
            return None
        entry = (await self._cache.get([MARK_KEY])).get(MARK_KEY)
        if entry is None:
            return None
        try:
            history, digest = json.loads(entry.payload)
        except ValueError:
            logger.warning("the cache has something under '%s' that is not a mark of the log", MARK_KEY)
            return None
        return Checkpoint(str(history), entry.revision, str(digest))

    def moved(self) -> None:
        """There is a new place to leave."""
        self._moved.set()

    async def keep(self, own: Callable[[], Checkpoint], found: Callable[[Checkpoint], Awaitable[None]]) -> None:
        """Leaves `own()` as it moves, and tells `found` of a mark that is beyond it; for ever.

        The cache keeps the highest revision, and a later history begins above the earlier one: so it is the latest.
        """
        if self._cache is None:
            return
        while True:
            self._moved.clear()
            point = own()
            if point.history:
                payload = json.dumps([point.history, point.digest]).encode()
                await self._cache.put({MARK_KEY: CacheEntry(point.revision, payload)}, MARK_LIFE)
                mark = await self.find()
                if mark is not None and mark.revision > own().revision:
                    try:
                        await found(mark)
                    except ServiceError as error:
                        logger.debug("the mark of the log can't be compared now: %s", error)
            await self._clock.sleep(MARK_PAUSE_SECONDS)
            waiting = asyncio.ensure_future(self._moved.wait())
            timer = asyncio.ensure_future(self._clock.sleep(MARK_SECONDS))
            try:
                await asyncio.wait((waiting, timer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                timer.cancel()
