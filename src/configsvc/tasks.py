"""Tasks that nobody waits for.

A task that ends by itself is started by `BackgroundTasks.start`: it is held until it ends, and its error is logged. A task
that must run for ever is kept by `Supervisor.keep`: if it ends or raises, this is logged, `/health` tells it, and it is
started again, until its owner ends it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from configsvc.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

# The pause before a task is started again: doubled with each failure, with jitter, so that a fleet does not come back at
# once.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
# A task that has run for this long is well: its failure is over, and the next one begins at the shortest pause.
WELL_SECONDS = 10.0
# Of a failure's text. It may quote what came from outside.
REASON_CHARACTERS = 300

_SYSTEM_CLOCK = SystemClock()


class BackgroundTasks:
    """The tasks of one owner, each of which ends by itself."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Starts a task; an error that ends it is logged."""
        task = asyncio.create_task(work, name=self._owner)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def end(self) -> None:
        """Cancels what still runs, and returns when it has ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the %s failed", self._owner, exc_info=error)


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task has failed, and has not run well since. `since`: the first of these failures; `reason`: the last."""

    task: str
    since: datetime
    failures: int
    reason: str

    def __str__(self) -> str:
        times = "once" if self.failures == 1 else f"{self.failures} times"
        return f"'{self.task}' failed {times} since {self.since.isoformat()}, and was started again: {self.reason}"


class SupervisedTask:
    """A task that is started again whenever it fails. See `Supervisor.keep`."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        clock: Clock,
        may_end: bool,
    ) -> None:
        self.name = name
        self.starts = 0
        self._work = work
        self._clock = clock
        self._may_end = may_end
        self._began_at = clock.monotonic()
        self._trouble: TaskFailure | None = None
        self._run: asyncio.Task[None] | None = None
        self._keeper = asyncio.create_task(self._keep(), name=f"keep-{name}")

    @property
    def trouble(self) -> TaskFailure | None:
        """What is wrong; None if it has never failed, or has run well since."""
        if self._trouble is not None and self._run is not None and self._is_well():
            logger.info("the task '%s' runs well again", self.name)
            self._trouble = None
        return self._trouble

    def over(self, told: Callable[["SupervisedTask"], object]) -> None:
        """Calls `told` when it has been ended, or has ended if it may."""
        self._keeper.add_done_callback(lambda _: told(self))

    def cancel(self) -> None:
        """Ends it, soon."""
        self._keeper.cancel()

    async def end(self) -> None:
        """Ends it; returns when it has ended."""
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)

    async def ended(self) -> None:
        """Returns when it has ended by itself, which only one that may end does."""
        await asyncio.shield(self._keeper)

    async def _keep(self) -> None:
        pause = SHORTEST_PAUSE_SECONDS
        while True:
            self._began_at, self.starts = self._clock.monotonic(), self.starts + 1
            # A task of its own: if it is cancelled and this one is not, it has failed like any other.
            self._run = asyncio.ensure_future(self._once())
            try:
                await self._run
            except asyncio.CancelledError as error:
                if (me := asyncio.current_task()) is None or me.cancelling():
                    raise
                failed: BaseException | None = error
            except Exception as error:
                failed = error
            else:
                if self._may_end:
                    self._trouble = None
                    return
                failed = None
            self._run = None
            if self._is_well():
                pause, self._trouble = SHORTEST_PAUSE_SECONDS, None
            chosen = random.uniform(pause / 2, pause)
            self._note(failed, chosen)
            await self._clock.sleep(chosen)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _once(self) -> None:
        await self._work()

    def _is_well(self) -> bool:
        return self._clock.monotonic() - self._began_at >= WELL_SECONDS

    def _note(self, failed: BaseException | None, pause_seconds: float) -> None:
        reason = "it ended" if failed is None else _said(failed)
        logger.error(
            "the task '%s' failed, and is started again in %.1f s: %s",
            self.name,
            pause_seconds,
            reason,
            exc_info=failed,
        )
        before = self._trouble
        since, failures = (before.since, before.failures) if before else (self._clock.now(), 0)
        self._trouble = TaskFailure(self.name, since, failures + 1, reason)


class Supervisor:
    """All tasks of this process that must not end, by name."""

    def __init__(self, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._kept: dict[SupervisedTask, None] = {}

    def keep(self, name: str, work: Callable[[], Awaitable[None]], *, may_end: bool = False) -> SupervisedTask:
        """Runs `work()`, and again after a pause whenever it raises, is cancelled by others, or returns.

        With `may_end`, one that returns has done what it was for, and is not started again.
        """
        kept = SupervisedTask(name, work, self._clock, may_end)
        self._kept[kept] = None
        kept.over(lambda over: self._kept.pop(over, None))
        return kept

    @property
    def kept(self) -> tuple[SupervisedTask, ...]:
        """What is kept running now."""
        return tuple(self._kept)

    @property
    def troubles(self) -> tuple[TaskFailure, ...]:
        """Those that have failed, and have not run well since."""
        return tuple(kept.trouble for kept in self.kept if kept.trouble is not None)


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, asyncio.CancelledError):
        return "it was cancelled"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= REASON_CHARACTERS else f"{text[:REASON_CHARACTERS]}…"
