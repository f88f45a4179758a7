"""Group commit: writes that wait at the same time share one transaction, so that one disk flush serves many writes.

While one group commits, the next one gathers. So the size of a group follows the load: a single write waits only for some
iterations of the event loop, and sixty-four concurrent writes wait for one flush instead of sixty-four. Groups commit one
at a time, in the order of arrival. (DeWitt et al., "Implementation techniques for main memory database systems", 1984.)

The adapters share this module; it knows nothing of databases.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from configsvc.domain.records import Commit, Write
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

# Writes that may wait for a group. At some thousand writes a second they wait well under a second; more writes would be
# answered after their callers gave up.
DEFAULT_QUEUE_WRITES = 1_024

# Writes in one transaction. Beyond about a hundred, the flush is a small part of each write's cost, and a larger group
# only makes its first write wait for its last one.
DEFAULT_GROUP_WRITES = 128

# A group is closed after so many iterations of the event loop without another write. A request needs several from the
# socket to this queue; without a request they take microseconds. With 64 calls in flight on PostgreSQL, 0 iterations gave
# groups of a few writes, and half of the writes a second that 8 give; 16 gave little more.
QUIET_ITERATIONS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one write of a group: a commit or an error.

    A value and not an exception on the future: a future can't hold `StopIteration`, and asyncio warns about an exception
    that nobody retrieves.
    """

    commit: Commit | None = None
    error: BaseException | None = None

    def result(self) -> Commit:
        """Returns the commit, or raises the error."""
        if self.error is not None:
            raise self.error
        assert self.commit is not None
        return self.commit


@dataclass(frozen=True, slots=True)
class _QueuedWrite:
    write: Write
    outcome: asyncio.Future[Outcome]


class GroupCommit:
    """Gathers writes into groups. `commit_group` commits one group, and returns an outcome for each write, in order.

    If `commit_group` raises, every write of the group gets that error. Leaving the context commits the queued writes.
    """

    def __init__(
        self,
        commit_group: Callable[[Sequence[Write]], Awaitable[Sequence[Outcome]]],
        *,
        queue_writes: int = DEFAULT_QUEUE_WRITES,
        group_writes: int = DEFAULT_GROUP_WRITES,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._commit_group = commit_group
        self._group_writes = group_writes
        # None, put last, ends the worker.
        self._queue: asyncio.Queue[_QueuedWrite | None] = asyncio.Queue(queue_writes)
        self._open = False
        self._worker: SupervisedTask | None = None

    async def write(self, write: Write) -> Commit:
        """Returns the write's commit when its group is durable.

        Cancelling a caller whose write is still queued withdraws the write. If its group is already committing, the
        outcome is lost to the caller. Neither affects other writes.

        Raises:
            ResourceExhausted: too many writes are queued (reason `WRITE_QUEUE_FULL`).
            Unavailable: the storage is closed (reason `STORAGE_CLOSED`).
        """
        if not self._open:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")
        queued = _QueuedWrite(write, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(queued)
        except asyncio.QueueFull as error:
            raise ResourceExhausted("too many writes are waiting; try again later", "WRITE_QUEUE_FULL") from error
        return (await queued.outcome).result()

    async def __aenter__(self) -> Self:
        self._worker = self._supervisor.supervise("group commit", self._commit_groups, may_return=True)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        if self._worker is not None:
            await self._queue.put(None)
            await self._worker.wait()
            self._worker = None

    async def _commit_groups(self) -> None:
        while (first := await self._queue.get()) is not None:
            await self._wait_until_quiet()
            group, is_last = self._take_group(first)
            if group:
                await self._commit(group)
            if is_last:
                return

    async def _wait_until_quiet(self) -> None:
        """Lets writes arrive that are on their way through this process, until no more do."""
        quiet, queued = 0, self._queue.qsize()
        while quiet < QUIET_ITERATIONS and queued < self._group_writes:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._queue.qsize() == queued else 0
            queued = self._queue.qsize()

    def _take_group(self, first: _QueuedWrite) -> tuple[list[_QueuedWrite], bool]:
        """Up to a group's size of queued writes, without the withdrawn ones; and whether the queue has ended."""
        taken: list[_QueuedWrite | None] = [first]
        while len(taken) < self._group_writes and taken[-1] is not None and not self._queue.empty():
            taken.append(self._queue.get_nowait())
        group = [queued for queued in taken if queued is not None and not queued.outcome.done()]
        return group, taken[-1] is None

    async def _commit(self, group: Sequence[_QueuedWrite]) -> None:
        try:
            outcomes = await self._commit_group([queued.write for queued in group])
        except asyncio.CancelledError:
            for queued in group:
                queued.outcome.cancel()
            raise
        except Exception as error:
            outcomes = [Outcome(error=error)] * len(group)
        for queued, outcome in zip(group, outcomes, strict=True):
            # The future is done if its caller was cancelled meanwhile.
            if not queued.outcome.done():
                queued.outcome.set_result(outcome)
