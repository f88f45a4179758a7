"""When each instance is checked, and which of the due checks runs next.

A bounded number of checks run at the same time: in total, for each service, and for unproven instances. An instance is
unproven if it is new or failed its last check. A check that hangs holds its slot for the whole time-out, so unproven
instances get a part of the slots only, and never delay those that passed. What waits is bounded by the number of instances.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count

from configsvc.app.registry.health_checks.fair_queue import FairQueue
from configsvc.backoff import Backoff
from configsvc.domain.instances import CheckResult, Instance

# Checks at the same time. Each holds a socket and little else. More would be a burst of its own.
CONCURRENT_CHECKS = 64
# Slots of these for unproven instances.
UNPROVEN_CHECKS = 32
# Slots of these for one service, so that two services that hang leave slots to others.
SERVICE_CHECKS = 16


class Phase(Enum):
    """Where a check is: not due, waiting for a slot, or running."""

    IDLE, QUEUED, RUNNING = auto(), auto(), auto()


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """A check's result for its callers. `is_unanswered`: the target gave no answer."""

    result: CheckResult
    is_unanswered: bool


@dataclass(slots=True, eq=False)
class CheckState:
    """The checks of one incarnation at one URL."""

    instance: Instance
    is_owned: bool
    # The pauses after a busy target.
    backoff: Backoff
    due: float = 0.0
    phase: Phase = Phase.IDLE
    # The last result, and how many results in a row were the same.
    passed: bool = True
    streak: int = 0
    # The outcome that callers wait for; None if nobody does.
    waiter: "asyncio.Future[CheckOutcome] | None" = None
    task: "asyncio.Task[None] | None" = None

    @property
    def has_failed(self) -> bool:
        """Whether the last check failed."""
        return self.streak > 0 and not self.passed

    @property
    def is_unproven(self) -> bool:
        """Whether the last check failed, or there was none."""
        return not self.streak or not self.passed

    def belongs_to(self, instance: Instance) -> bool:
        """Whether the results are about this incarnation at this URL."""
        own = (self.instance.incarnation, self.instance.health_check_url)
        return own == (instance.incarnation, instance.health_check_url)


class CheckQueue:
    """The due times of checks, those that wait for a slot, and the slots in use."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, CheckState]] = []
        self._numbers = count()
        self._proven, self._unproven = FairQueue[CheckState](), FairQueue[CheckState]()
        self._running = Counter[str]()
        self._running_unproven = 0

    @property
    def scheduled(self) -> int:
        """How many due times are held."""
        return len(self._due)

    @property
    def waiting(self) -> int:
        """How many checks wait for a slot."""
        return len(self._proven) + len(self._unproven)

    @property
    def running(self) -> int:
        """How many slots are in use."""
        return self._running.total()

    def schedule(self, state: CheckState, due: float) -> None:
        """Makes a check due at this time. An earlier due time of it no longer counts."""
        state.due = due
        heapq.heappush(self._due, (due, next(self._numbers), state))

    def pop_due(self, now: float) -> Iterator[CheckState]:
        """Takes the checks that are due."""
        while self._due and self._due[0][0] <= now:
            due, _, state = heapq.heappop(self._due)
            if state.due == due and state.phase is Phase.IDLE:
                yield state

    def enqueue(self, state: CheckState) -> None:
        """The check waits for a slot."""
        state.phase = Phase.QUEUED
        queue = self._unproven if state.is_unproven else self._proven
        queue.put(state.instance.service_name, state)

    def take(self) -> CheckState | None:
        """The check that gets the next slot; None if no slot is free, or nothing waits. Call `occupy` to use the slot."""

        def has_capacity(service: str) -> bool:
            return self._running[service] < SERVICE_CHECKS

        if self._running.total() >= CONCURRENT_CHECKS:
            return None
        state = self._proven.take(has_capacity)
        if state is None and self._running_unproven < UNPROVEN_CHECKS:
            state = self._unproven.take(has_capacity)
        return state

    def occupy(self, service: str, *, is_unproven: bool) -> None:
        """A check runs, and uses a slot."""
        self._running[service] += 1
        self._running_unproven += is_unproven

    def release(self, service: str, *, is_unproven: bool) -> None:
        """A check has ended, and its slot is free."""
        self._running_unproven -= is_unproven
        self._running[service] -= 1
        if not self._running[service]:
            del self._running[service]
