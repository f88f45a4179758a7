"""Health checks of the instances that this replica owns: on an interval with jitter, in time for their leases, and fair.

- An instance is checked at least three times a lease.
- There is one check of an instance at a time. Callers that ask for one share it.
- A check that could not run is not a result. `check_before_expiry` keeps a lease from ending for lack of a check.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from configsvc.app.registry.health_checks.check_queue import CheckOutcome, CheckQueue, CheckState, Phase
from configsvc.backoff import Backoff
from configsvc.clock import Clock, wait_within
from configsvc.domain.instances import HEALTHY, CheckResult, Instance
from configsvc.domain.records import Record, Ref
from configsvc.errors import ServiceError
from configsvc.probes.port import Probe, ProbeBusyError, ProbeFailedError, ProbeUnansweredError
from configsvc.tasks import BackgroundTasks, SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Checks in a lease, so that one lost check does not end it.
CHECKS_PER_LEASE = 3
# The interval varies by this part to either side, so that the checks of a fleet spread out.
JITTER = 0.2
# How often due checks are started.
TICK_SECONDS = 0.25
# The first pause after a busy target. It doubles up to the interval.
BUSY_SECONDS = 0.5
# How long a caller waits for a slot, and the error that it gets if there was none.
SLOT_WAIT_SECONDS = 10.0
BUSY = "not checked: too many other checks are under way"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many equal results in a row make an instance HEALTHY (`up`) or UNHEALTHY (`down`)."""

    up: int
    down: int


# `(instance, passed, is_threshold_reached)`.
OnResult = Callable[[Instance, bool, bool], Awaitable[None]]


class HealthChecks:
    """Runs the checks, and calls `on_result` after each. Observes the registrations.

    `owns`: whether this replica owns an instance, and so checks it on the interval.
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
        on_result: OnResult,
        supervisor: Supervisor,
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._thresholds = thresholds
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._owns = owns
        self._on_result = on_result
        self._supervisor = supervisor
        self._scheduler: SupervisedTask | None = None
        self._states: dict[Ref, CheckState] = {}
        self._queue = CheckQueue()
        self._background = BackgroundTasks("health checks")
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._scheduler = self._supervisor.supervise("health checks", self._run_due)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        if self._scheduler is not None:
            await self._scheduler.stop()
        await self._background.stop()

    def on_put(self, record: Record, before: Record | None) -> None:
        """Schedules the checks of an instance that this replica owns; drops those of an earlier incarnation or URL."""
        instance, state = Instance.of(record), self._states.get(record.ref)
        is_owned = self._owns(record) and bool(instance.health_check_url)
        if state is not None and state.belongs_to(instance) and is_owned == state.is_owned:
            state.instance = instance
            return
        self._states.pop(record.ref, None)
        if is_owned:
            first = self._clock.monotonic() + random.uniform(0, self._interval_of(instance) / 2)
            state = self._new_state(instance, is_owned=True)
            self._queue.schedule(state, first)

    def on_remove(self, record: Record) -> None:
        """Drops the checks of the instance."""
        self._states.pop(record.ref, None)

    def check_before_expiry(self, record: Record) -> bool:
        """Whether an instance must be checked before its lease ends. If so, its check is due now.

        That is so if the last check passed, or there was none: a check in time would have renewed the lease.
        """
        state = self._states.get(record.ref)
        if state is None or not state.is_owned or state.has_failed:
            return False
        if state.phase is Phase.IDLE:
            self._queue.schedule(state, self._clock.monotonic())
        return True

    async def check(self, instance: Instance) -> CheckResult:
        """One check, as soon as there is a slot, or the one that is under way. Its result counts like any other."""
        if not instance.health_check_url:
            return self._skipped(instance, passed=True)
        state, began = self._state_of(instance), self._clock.monotonic()
        waiter = state.waiter = state.waiter or self._new_waiter()
        if state.phase is Phase.IDLE:
            self._queue.enqueue(state)
            self._start_waiting()
        await wait_within(self._clock, SLOT_WAIT_SECONDS, waiter)
        if state.task is not None and not waiter.done():
            # The check has its slot, and ends within its time-out.
            await asyncio.wait((state.task,))
        if not waiter.done():
            return self._skipped(instance, passed=instance.status == HEALTHY, error=BUSY)
        outcome = waiter.result()
        if outcome.is_unanswered:
            # All checks without an answer take equally long. Else the time would tell the caller what listens where.
            await self._clock.sleep(began + self._timeout_seconds - self._clock.monotonic())
        return outcome.result

    def _state_of(self, instance: Instance) -> CheckState:
        state = self._states.get(instance.ref)
        if state is None or not state.belongs_to(instance):
            state = self._new_state(instance, is_owned=False)
        return state

    def _new_state(self, instance: Instance, *, is_owned: bool) -> CheckState:
        state = CheckState(instance, is_owned, Backoff(BUSY_SECONDS, self._interval_seconds))
        self._states[instance.ref] = state
        return state

    def _new_waiter(self) -> "asyncio.Future[CheckOutcome]":
        waiter: asyncio.Future[CheckOutcome] = asyncio.get_running_loop().create_future()
        # Retrieve the exception, so that asyncio does not warn when every caller was cancelled.
        waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
        return waiter

    def _skipped(self, instance: Instance, *, passed: bool, error: str = "") -> CheckResult:
        return CheckResult(instance.instance_id, passed, instance.status, 0.0, error, self._clock.now(), skipped=True)

    def _interval_of(self, instance: Instance) -> float:
        return min(self._interval_seconds, instance.lease_ttl_seconds / CHECKS_PER_LEASE)

    def _is_current(self, state: CheckState) -> bool:
        return self._states.get(state.instance.ref) is state

    async def _run_due(self) -> None:
        while True:
            await self._clock.sleep(TICK_SECONDS)
            for state in self._queue.pop_due(self._clock.monotonic()):
                if self._is_current(state):
                    self._queue.enqueue(state)
            self._start_waiting()

    def _start_waiting(self) -> None:
        """Starts waiting checks while there are free slots."""
        while not self._is_closed and (state := self._queue.take()) is not None:
            if state.waiter is None and not self._is_current(state):
                continue
            state.phase = Phase.RUNNING
            self._queue.occupy(state.instance.service_name, is_unproven=state.is_unproven)
            state.task = self._background.start(self._run(state, state.is_unproven))

    async def _run(self, state: CheckState, is_unproven: bool) -> None:
        began, has_result = self._clock.monotonic(), False
        try:
            try:
                failure = await self._probe_failure(state.instance.health_check_url)
                seconds = self._clock.monotonic() - began
            finally:
                self._queue.release(state.instance.service_name, is_unproven=is_unproven)
                self._start_waiting()
            has_result = True
            await self._count(state, failure)
            self._answer(state, failure, seconds)
        except ProbeBusyError:
            logger.debug("the target of instance '%s' is busy with other checks", state.instance.instance_id)
        except ServiceError as error:
            # The next check writes it again.
            logger.warning("the status of instance '%s' could not be written: %s", state.instance.instance_id, error)
            if state.waiter is not None:
                state.waiter.set_exception(error)
                state.waiter = None
        finally:
            self._reschedule(state, began, has_result=has_result)

    async def _probe_failure(self, url: str) -> ProbeFailedError | None:
        try:
            await self._probe.check(url)
        except ProbeFailedError as error:
            return error
        return None

    async def _count(self, state: CheckState, failure: ProbeFailedError | None) -> None:
        passed, instance = failure is None, state.instance
        if failure is not None and not state.has_failed:
            detail = failure.detail if isinstance(failure, ProbeUnansweredError) else failure
            logger.info(
                "the check of instance '%s' of '%s' fails: %s", instance.instance_id, instance.service_name, detail
            )
        state.streak = state.streak + 1 if state.passed == passed else 1
        state.passed = passed
        threshold = self._thresholds.up if passed else self._thresholds.down
        await self._on_result(instance, passed, state.streak >= threshold)

    def _answer(self, state: CheckState, failure: ProbeFailedError | None, seconds: float) -> None:
        """Gives the result to the callers that wait for it."""
        if state.waiter is None:
            return
        is_unanswered = isinstance(failure, ProbeUnansweredError)
        latency_ms = 0.0 if is_unanswered else seconds * 1000
        error = str(failure) if failure else ""
        instance = state.instance
        result = CheckResult(
            instance.instance_id, failure is None, instance.status, latency_ms, error, self._clock.now()
        )
        state.waiter.set_result(CheckOutcome(result, is_unanswered))
        state.waiter = None

    def _reschedule(self, state: CheckState, began: float, *, has_result: bool) -> None:
        state.phase, state.task = Phase.IDLE, None
        interval = self._interval_of(state.instance)
        if not self._is_current(state):
            return
        if not state.is_owned and state.waiter is None:
            del self._states[state.instance.ref]
        elif has_result:
            state.backoff.reset()
            self._queue.schedule(state, began + interval * random.uniform(1 - JITTER, 1 + JITTER))
        else:
            self._queue.schedule(state, self._clock.monotonic() + min(interval, state.backoff.next()))
