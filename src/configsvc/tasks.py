"""Background tasks: work that no caller awaits.

`BackgroundTasks` runs tasks that finish on their own. It holds a reference to each until it is done, so that the garbage
collector does not destroy it, and logs the error of one that fails.

`Supervisor` runs tasks that must not finish. If one returns, raises or is cancelled by others, the supervisor logs the
failure, `/health` shows it, and the task is restarted after a back-off, until its owner stops it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from configsvc.backoff import Backoff
from configsvc.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

# The pauses before a restart. The longest bounds how long the service goes without the task's work once the cause is gone.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
# A task that has run for this long is healthy: its failures are forgotten, and its next pause is the shortest.
HEALTHY_SECONDS = 10.0
# The length to which a failure's reason is cut. It may quote text that came from outside.
REASON_CHARACTERS = 300

_SYSTEM_CLOCK = SystemClock()


class BackgroundTasks:
    """The tasks of one owner, each of which finishes on its own."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Starts a task. If it raises, the error is logged."""
        task = asyncio.create_task(work, name=self._owner)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def stop(self) -> None:
        """Cancels the running tasks; returns when they are done."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the %s failed", self._owner, exc_info=error)


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task has failed `count` times without being healthy in between.

    `since` is the time of the first of these failures, `reason` describes the last.
    """

    task: str
    since: datetime
    count: int
    reason: str

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"'{self.task}' failed {times} since {self.since.isoformat()}, and was started again: {self.reason}"


class SupervisedTask:
    """A task that is restarted whenever it fails. Made by `Supervisor.supervise`.

    `starts` counts how often the work was started.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], clock: Clock, may_return: bool) -> None:
        self.name = name
        self.starts = 0
        self._work = work
        self._clock = clock
        self._may_return = may_return
        self._started_at = clock.monotonic()
        self._failure: TaskFailure | None = None
        self._run: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._supervise(), name=f"supervise-{name}")

    @property
    def failure(self) -> TaskFailure | None:
        """The last failure; None if there was none, or if the task has become healthy since."""
        if self._failure is not None and self._run is not None and self._is_healthy():
            logger.info("the task '%s' runs well again", self.name)
            self._failure = None
        return self._failure

    def add_done_callback(self, on_done: Callable[["SupervisedTask"], object]) -> None:
        """Calls `on_done` when the task is over: it was stopped, or it returned and may return."""
        self._task.add_done_callback(lambda _: on_done(self))

    def cancel(self) -> None:
        """Stops the task without waiting."""
        self._task.cancel()

    async def stop(self) -> None:
        """Stops the task; returns when it is over."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self) -> None:
        """Returns when the work has returned. Only for a task that may return."""
        await asyncio.shield(self._task)

    async def _supervise(self) -> None:
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            self._started_at, self.starts = self._clock.monotonic(), self.starts + 1
            # Run the work in a task of its own: a cancellation of that task alone is a failure like any other.
            self._run = asyncio.ensure_future(self._run_once())
            try:
                await self._run
            except asyncio.CancelledError as cancellation:
                if (current := asyncio.current_task()) is None or current.cancelling():
                    raise
                error: BaseException | None = cancellation
            except Exception as raised:
                error = raised
            else:
                if self._may_return:
                    self._failure = None
                    return
                error = None
            self._run = None
            if self._is_healthy():
                backoff.reset()
                self._failure = None
            pause_seconds = backoff.next()
            self._record(error, pause_seconds)
            await self._clock.sleep(pause_seconds)

    async def _run_once(self) -> None:
        await self._work()

    def _is_healthy(self) -> bool:
        return self._clock.monotonic() - self._started_at >= HEALTHY_SECONDS

    def _record(self, error: BaseException | None, pause_seconds: float) -> None:
        reason = "it ended" if error is None else _reason_of(error)
        logger.error(
            "the task '%s' failed, and is started again in %.1f s: %s",
            self.name,
            pause_seconds,
            reason,
            exc_info=error,
        )
        before = self._failure
        since, count = (before.since, before.count) if before else (self._clock.now(), 0)
        self._failure = TaskFailure(self.name, since, count + 1, reason)


class Supervisor:
    """The supervised tasks of this process."""

    def __init__(self, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._clock = clock
        # A dict, because a set has no order.
        self._tasks: dict[SupervisedTask, None] = {}

    def supervise(self, name: str, work: Callable[[], Awaitable[None]], *, may_return: bool = False) -> SupervisedTask:
        """Runs `work()`. Restarts it after a pause whenever it raises, is cancelled by others, or returns.

        With `may_return`, work that returns is done, and is not restarted.
        """
        task = SupervisedTask(name, work, self._clock, may_return)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    @property
    def tasks(self) -> tuple[SupervisedTask, ...]:
        """The tasks that are not over, in the order of their start."""
        return tuple(self._tasks)

    @property
    def failures(self) -> tuple[TaskFailure, ...]:
        """The failures of the tasks that have not been healthy since."""
        return tuple(task.failure for task in self.tasks if task.failure is not None)


def _reason_of(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, asyncio.CancelledError):
        return "it was cancelled"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= REASON_CHARACTERS else f"{text[:REASON_CHARACTERS]}…"
