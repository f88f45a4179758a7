"""What watchers read from the store: pages of a snapshot, and the changes that a watcher has missed."""

import asyncio
from collections.abc import Sequence

from configsvc.app.changelog.tail import LogTail
from configsvc.app.watch.selector import Selector
from configsvc.domain.lineage import LogState
from configsvc.domain.records import Change
from configsvc.errors import RevisionOutOfRange, Unavailable
from configsvc.storage.port import Log, Reader, RecordPage

# One read of a watcher that is behind, which it also holds in memory; at least one revision.
CATCH_UP_CHANGES, CATCH_UP_BYTES = 250, 1 << 20
# Concurrent reads for watchers. After a restart all clients come at once, and writers need the store too.
CONCURRENT_READS = 8
# How long an opening snapshot waits for the tail to reach its last page, for a later revision in `Synced`.
TAIL_WAIT_SECONDS = 1.0


class StoreReads:
    """The reads of all watchers; everything that they return is of the history that the tail follows.

    Every method raises `RevisionOutOfRange`, reason `HISTORY_CHANGED`, if the store has another history.
    """

    def __init__(self, tail: LogTail, reader: Reader, log: Log) -> None:
        self._tail = tail
        self._reader = reader
        self._log = log
        self._slots = asyncio.Semaphore(CONCURRENT_READS)

    async def check_resumable(self, after: int, history: str) -> None:
        """Raises `RevisionOutOfRange` if the log does not have every change after `after`, a revision of `history`."""
        if history and history != self._tail.history:
            # Another replica may have told the client a history that this replica has not met yet.
            await self._tail.catch_up()
        # No history has a revision below 0: it is out of range, see below.
        is_of_other_history = history != self._tail.history if history else 0 <= after < self._tail.since
        if is_of_other_history:
            raise self._tail.history_changed()
        if after == self._tail.applied:
            # Spares a read for each of the clients that come back together after a short disconnection.
            return
        async with self._slots:
            state = await self._log.state()
        self._check_history(state.history)
        if not state.compacted <= after <= state.head:
            raise _out_of_range(after, state)

    async def page(self, selector: Selector, after: tuple[str, str] | None) -> RecordPage:
        """The next page of a snapshot."""
        async with self._slots:
            page = await self._reader.page(selector.query(after))
        self._check_history(page.history)
        return page

    async def changes(self, after: int) -> Sequence[Change]:
        """The next changes after a revision. Raises `RevisionOutOfRange` if they were compacted away."""
        async with self._slots:
            try:
                changes = await self._log.read(after, CATCH_UP_CHANGES, CATCH_UP_BYTES)
            except RevisionOutOfRange as error:
                state = await self._log.state()
                self._check_history(state.history)
                raise _out_of_range(after, state) from error
        if changes:
            self._check_history(changes[0].history)
        return changes

    async def wait_for_tail(self, revision: int) -> None:
        """Returns when the tail has applied the revision, or does not soon."""
        try:
            await self._tail.wait_for(revision, TAIL_WAIT_SECONDS)
        except Unavailable:
            return

    def _check_history(self, history: str) -> None:
        if self._tail.is_synced and history != self._tail.history:
            self._tail.request_read()
            raise self._tail.history_changed()


def _out_of_range(after: int, state: LogState) -> RevisionOutOfRange:
    problem = (
        "has not happened yet" if after > state.head else "was compacted away" if after >= 0 else "is not a revision"
    )
    return RevisionOutOfRange(
        f"revision {after} {problem}; a watch can resume after {state.compacted} to {state.head}",
        metadata={"oldest_revision": str(state.compacted), "current_revision": str(state.head)},
    )
