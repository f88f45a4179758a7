"""Group commit: writes that wait at the same time share one transaction, so that one flush of the disk serves many.

While one group commits the next one gathers, so the group's size follows the load by itself: a lone writer waits for
nobody but some turns of the loop, and sixty-four of them wait for one flush, not for sixty-four. One group at a time, in the order of arrival.
(The idea is as old as logs: DeWitt et al., "Implementation techniques for main memory database systems", 1984.)

Shared by the adapters; knows nothing of databases.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from configsvc.domain.records import Commit, Write
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

# Writes that may wait for their group. At some thousand writes a second this is a wait of well under a second; more
# would only be answered after their callers have given up.
DEFAULT_QUEUE_WRITES = 1_024

# Writes in one transaction. Beyond about a hundred the flush is already a small part of each write's cost, and a
# larger group only makes its first write wait for its last.
DEFAULT_GROUP_WRITES = 128

# Turns of the event loop without another write until a group is closed. A request takes several from the socket to here,
# and they cost microseconds where nothing comes: with 64 calls in flight, 0 turns gave groups of a few, and half of the
# writes a second on PostgreSQL that 8 give; 16 gave little more.
QUIET_TURNS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one write of a group ended: a commit or an error.

    A value, since an exception set on a future may be neither a StopIteration nor left unseen.
    """

    commit: Commit | None = None
    error: BaseException | None = None

    def result(self) -> Commit:
        """The commit, or raises the error."""
        if self.error is not None:
            raise self.error
        assert self.commit is not None
        return self.commit


@dataclass(frozen=True, slots=True)
class _Waiting:
    write: Write
    outcome: asyncio.Future[Outcome]


class GroupCommit:
    """Gathers writes into groups. `commit_group` gets one group, and returns an outcome for each, in order.

    What `commit_group` raises is every write's outcome. Leaving the context finishes what waits.
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
        # None, put last, ends the work.
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue(queue_writes)
        self._open = False
        self._worker: SupervisedTask | None = None

    async def write(self, write: Write) -> Commit:
        """Returns the write's commit when its group is durable.

        A caller that is cancelled while its write waits takes it back; one whose write is in a group already does not
        learn the outcome. No other write is touched.

        Raises:
            ResourceExhausted: too many writes wait (reason `WRITE_QUEUE_FULL`).
            Unavailable: closed.
        """
        if not self._open:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")
        waiting = _Waiting(write, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull as error:
            raise ResourceExhausted("too many writes are waiting; try again later", "WRITE_QUEUE_FULL") from error
        return (await waiting.outcome).result()

    async def __aenter__(self) -> Self:
        self._worker = self._supervisor.supervise("group commit", self._work, may_return=True)
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

    async def _work(self) -> None:
        while (first := await self._queue.get()) is not None:
            await self._let_in()
            group, ends = self._gather(first)
            if group:
                await self._settle(group)
            if ends:
                return

    async def _let_in(self) -> None:
        """Lets the writes come that are on their way through this process, until no more do."""
        quiet, waiting = 0, self._queue.qsize()
        while quiet < QUIET_TURNS and waiting < self._group_writes:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._queue.qsize() == waiting else 0
            waiting = self._queue.qsize()

    def _gather(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """Everything that waits, up to a group's size, without what was taken back; and whether the end was met."""
        gathered: list[_Waiting | None] = [first]
        while len(gathered) < self._group_writes and gathered[-1] is not None and not self._queue.empty():
            gathered.append(self._queue.get_nowait())
        group = [waiting for waiting in gathered if waiting is not None and not waiting.outcome.done()]
        return group, gathered[-1] is None

    async def _settle(self, group: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._commit_group([waiting.write for waiting in group])
        except asyncio.CancelledError:
            for waiting in group:
                waiting.outcome.cancel()
            raise
        except Exception as error:
            outcomes = [Outcome(error=error)] * len(group)
        for waiting, outcome in zip(group, outcomes, strict=True):
            # A caller that was cancelled meanwhile has left.
            if not waiting.outcome.done():
                waiting.outcome.set_result(outcome)
