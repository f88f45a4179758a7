"""Checks that the log still is the one that was seen, and gives it a new history if it is not.

Three places remember what was seen of the log. Each replica knows what it has applied. The storage knows what this
process has read or written, and refuses writes to another log. The shared cache knows how far all replicas had come, and
outlives them (`SharedCheckpoint`). A replica that finds that the log does not continue from there makes the database
start a new history, which happens exactly once. Then every replica drops what it holds, and requests that refer to the
earlier history are refused.
"""

import logging

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.storage.port import ResumableLog

logger = logging.getLogger(__name__)

WHAT_TO_DO = (
    "Etags, page tokens, resume points and cached entries from before are refused; watches end with OUT_OF_RANGE and"
    " clients load everything again. If an older backup was restored on purpose there is nothing to do"
    " (`configsvc new-history` announces that in advance). If not, acknowledged writes are lost: look for a failover to"
    " a server that lacked them, or for another database that shares this one's cache and REDIS_PREFIX."
)


async def reconcile(log: ResumableLog, seen: Checkpoint) -> LogState:
    """The state of the log. If the log does not continue from `seen`, it has a new history in that state.

    Raises `Unavailable`.
    """
    page = await log.resume(seen, 1)
    if page.continues(seen):
        return page.state
    state = page.state
    if state.history != seen.history:
        reason = f"the log began its history at revision {state.since}, and {seen.revision} was seen in another"
    elif state.head < seen.revision:
        reason = f"the log ended at revision {state.head}, and {seen.revision} had been seen"
    else:
        reason = f"the log said something else than was seen at revision {seen.revision}"
    reconciled = await log.new_history_if_diverged(seen, reason)
    if reconciled.history != state.history:
        logger.error(
            "the database is not the one that it was: %s; its log has a new history, %s, from revision %d on. %s",
            reason, reconciled.history, reconciled.since, WHAT_TO_DO,
        )  # fmt: skip
    return reconciled
