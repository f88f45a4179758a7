"""Health checks of the instances that this replica owns: on an interval, with jitter, with thresholds, and fair.

- A lease that checks keep is checked in time: at least three times a lease.
- Each service has its turn, and a bounded number of looks at the same time, whatever other services have waiting. Those
  that passed last time never wait for those that are new or failed: these have a part of the places.
- One look at an instance at a time. What waits is bounded by the number of instances.
- A look that could not take place is no result. `owes` keeps a lease from ending for want of one.
"""

import asyncio
import heapq
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from types import TracebackType
from typing import Self

from configsvc.app.registry.fair_queue import FairQueue
from configsvc.clock import Clock
from configsvc.domain.instances import HEALTHY, CheckResult, Instance, instance_of
from configsvc.domain.records import Record, Ref
from configsvc.errors import ServiceError
from configsvc.probes.port import Probe, ProbeBusyError, ProbeFailedError, ProbeUnansweredError
from configsvc.tasks import BackgroundTasks, SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Looks at the same time. Each holds a socket and little else; more than this would be a burst of its own.
CONCURRENT_LOOKS = 64
# Of these, for instances that are new or failed last time: a look that hangs holds its place for the whole time-out.
DOUBTFUL_LOOKS = 32
# Of these, for one service: two services that hang leave places to others.
SERVICE_LOOKS = 16
# Checks in a lease, so that one lost look does not end it.
LOOKS_PER_LEASE = 3
# Of the interval, to either side, so that the checks of a fleet spread out.
JITTER = 0.2
# How often what is due is looked for.
TICK_SECONDS = 0.25
# The first pause of one whose target is looked at by too many; it doubles up to the interval.
BUSY_SECONDS = 0.5
# How long a caller waits for the turn of a look that he asked for, and what he gets if it has not come.
PATIENCE_SECONDS = 10.0
BUSY = "not checked: too many other checks are under way"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many results in a row change an instance's state."""

    up: int
    down: int


class _State(Enum):
    IDLE, QUEUED, LOOKING = auto(), auto(), auto()


@dataclass(slots=True, eq=False)
class _Run:
    """Results in a row of one incarnation at one URL. `asked`: somebody waits for the next one."""

    instance: Instance
    is_owned: bool
    due: float
    state: _State = _State.IDLE
    passed: bool = True
    length: int = 0
    busy: int = 0
    asked: "asyncio.Future[_Outcome] | None" = None
    task: "asyncio.Task[None] | None" = None

    @property
    def has_failed(self) -> bool:
        return self.length > 0 and not self.passed

    @property
    def is_doubtful(self) -> bool:
        return not self.length or not self.passed

    def is_of(self, instance: Instance) -> bool:
        mine = (self.instance.incarnation, self.instance.health_check_url)
        return mine == (instance.incarnation, instance.health_check_url)


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: CheckResult
    is_unanswered: bool


class HealthChecks:
    """Looks, counts, and tells: `told(instance, passed, changed)` after each look. A `Follower` of the registrations.

    `changed` says that a threshold was reached: the instance now is what the look said.
    """

    def __init__(
        self,
        *,
        probe: Probe,
        clock: Clock,
        thresholds: Thresholds,
        interval_seconds: float,
        timeout_seconds: float,
        owns: Callable[[Record], bool],
        told: Callable[[Instance, bool, bool], "asyncio.Future[None] | None"],
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._work_task: SupervisedTask | None = None
        self._probe = probe
        self._clock = clock
        self._thresholds = thresholds
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._owns = owns
        self._told = told
        self._runs: dict[Ref, _Run] = {}
        self._due: list[tuple[float, int, _Run]] = []
        self._numbers = count()
        self._steady, self._doubtful = FairQueue[_Run](), FairQueue[_Run]()
        self._looking, self._looking_doubtful = Counter[str](), 0
        self._background = BackgroundTasks("health checks")
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._work_task = self._supervisor.supervise("health checks", self._work)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        if self._work_task is not None:
            await self._work_task.stop()
        await self._background.stop()

    def taken(self, record: Record, before: Record | None) -> None:
        """See `Follower`."""
        instance, run = instance_of(record), self._runs.get(record.ref)
        is_owned = self._owns(record) and bool(instance.health_check_url)
        if run is not None and run.is_of(instance) and is_owned == run.is_owned:
            run.instance = instance
            return
        self._runs.pop(record.ref, None)
        if is_owned:
            first = self._clock.monotonic() + random.uniform(0, self._interval_of(instance) / 2)
            run = self._runs[record.ref] = _Run(instance, True, first)
            self._schedule(run, first)

    def dropped(self, record: Record) -> None:
        """See `Follower`."""
        self._runs.pop(record.ref, None)

    def owes(self, record: Record) -> bool:
        """Whether an instance's lease must not end before there is a look at it, which is then due.

        That is so if the last look passed or there was none: had there been one in time, it would have a lease.
        """
        run = self._runs.get(record.ref)
        if run is None or not run.is_owned or run.has_failed:
            return False
        if run.state is _State.IDLE:
            self._schedule(run, self._clock.monotonic())
        return True

    async def look(self, instance: Instance) -> CheckResult:
        """One look, now or as soon as it has its turn, or the one that is under way. It counts like any other."""
        if not instance.health_check_url:
            return self._skipped(instance, passed=True)
        run, began = self._run_of(instance), self._clock.monotonic()
        asked = run.asked = run.asked or self._asked()
        if run.state is _State.IDLE:
            self._queue(run)
            self._start()
        patience = asyncio.ensure_future(self._clock.sleep(PATIENCE_SECONDS))
        try:
            await asyncio.wait((asked, patience), return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        if run.task is not None and not asked.done():
            # It has its turn, and ends by itself.
            await asyncio.wait((run.task,))
        if not asked.done():
            return self._skipped(instance, passed=instance.status == HEALTHY, error=BUSY)
        outcome = asked.result()
        if outcome.is_unanswered:
            # As late as any other without an answer: the time, too, would tell what listens where.
            await self._clock.sleep(began + self._timeout_seconds - self._clock.monotonic())
        return outcome.result

    def _run_of(self, instance: Instance) -> _Run:
        run = self._runs.get(instance.ref)
        if run is None or not run.is_of(instance):
            run = self._runs[instance.ref] = _Run(instance, False, 0.0)
        return run

    def _asked(self) -> "asyncio.Future[_Outcome]":
        asked: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        # Retrieve the exception, so that asyncio does not warn when everyone who asked has left.
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asked

    def _skipped(self, instance: Instance, *, passed: bool, error: str = "") -> CheckResult:
        return CheckResult(instance.instance_id, passed, instance.status, 0.0, error, self._clock.now(), skipped=True)

    def _interval_of(self, instance: Instance) -> float:
        return min(self._interval_seconds, instance.lease_ttl_seconds / LOOKS_PER_LEASE)

    async def _work(self) -> None:
        while True:
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.monotonic()
            while self._due and self._due[0][0] <= now:
                due, _, run = heapq.heappop(self._due)
                # One that was put off, or is no more, is left.
                if run.due == due and run.state is _State.IDLE and self._runs.get(run.instance.ref) is run:
                    self._queue(run)
            self._start()

    def _schedule(self, run: _Run, due: float) -> None:
        run.due = due
        heapq.heappush(self._due, (due, next(self._numbers), run))

    def _queue(self, run: _Run) -> None:
        run.state = _State.QUEUED
        turns = self._doubtful if run.is_doubtful else self._steady
        turns.add(run.instance.service_name, run)

    def _start(self) -> None:
        """Starts looks as long as there are places and turns."""
        while run := self._next():
            run.state = _State.LOOKING
            self._looking[run.instance.service_name] += 1
            self._looking_doubtful += run.is_doubtful
            run.task = self._background.start(self._turn(run, run.is_doubtful))

    def _next(self) -> _Run | None:
        def may(service: str) -> bool:
            return self._looking[service] < SERVICE_LOOKS

        while self._looking.total() < CONCURRENT_LOOKS and not self._is_closed:
            run = self._steady.next(may)
            if run is None and self._looking_doubtful < DOUBTFUL_LOOKS:
                run = self._doubtful.next(may)
            # One that is no more is left, unless somebody waits for it.
            if run is None or run.asked is not None or self._runs.get(run.instance.ref) is run:
                return run
        return None

    async def _turn(self, run: _Run, is_doubtful: bool) -> None:
        began, took_place = self._clock.monotonic(), False
        try:
            try:
                failure = await self._failure(run.instance.health_check_url)
                seconds = self._clock.monotonic() - began
            finally:
                self._leave(run.instance.service_name, is_doubtful)
            took_place = True
            await self._count(run, failure, seconds)
        except ProbeBusyError:
            logger.debug("the target of instance '%s' is looked at by too many", run.instance.instance_id)
        except ServiceError as error:
            # The next look says it again.
            logger.warning("the status of instance '%s' could not be written: %s", run.instance.instance_id, error)
            if run.asked is not None:
                run.asked.set_exception(error)
                run.asked = None
        finally:
            self._rest(run, began, took_place=took_place)

    async def _failure(self, url: str) -> ProbeFailedError | None:
        try:
            await self._probe.look(url)
        except ProbeFailedError as error:
            return error
        return None

    def _leave(self, service: str, is_doubtful: bool) -> None:
        self._looking_doubtful -= is_doubtful
        self._looking[service] -= 1
        if not self._looking[service]:
            del self._looking[service]
        self._start()

    async def _count(self, run: _Run, failure: ProbeFailedError | None, seconds: float) -> None:
        passed, instance = failure is None, run.instance
        if failure is not None and not run.has_failed:
            detail = failure.detail if isinstance(failure, ProbeUnansweredError) else failure
            logger.info(
                "the check of instance '%s' of '%s' fails: %s", instance.instance_id, instance.service_name, detail
            )
        run.length = run.length + 1 if run.passed == passed else 1
        run.passed = passed
        changed = run.length >= (self._thresholds.up if passed else self._thresholds.down)
        if (told := self._told(instance, passed, changed)) is not None:
            await told
        if run.asked is not None:
            is_unanswered = isinstance(failure, ProbeUnansweredError)
            latency_ms = 0.0 if is_unanswered else seconds * 1000
            error = str(failure) if failure else ""
            result = CheckResult(instance.instance_id, passed, instance.status, latency_ms, error, self._clock.now())
            run.asked.set_result(_Outcome(result, is_unanswered))
            run.asked = None

    def _rest(self, run: _Run, began: float, *, took_place: bool) -> None:
        """It waits until it is due again."""
        run.state, run.task = _State.IDLE, None
        run.busy = 0 if took_place else run.busy + 1
        interval = self._interval_of(run.instance)
        if self._runs.get(run.instance.ref) is not run:
            return
        if not run.is_owned and run.asked is None:
            del self._runs[run.instance.ref]
        elif took_place:
            self._schedule(run, began + interval * random.uniform(1 - JITTER, 1 + JITTER))
        else:
            pause = min(interval, BUSY_SECONDS * 2 ** min(run.busy - 1, 16))
            self._schedule(run, self._clock.monotonic() + pause * random.uniform(0.5, 1))
