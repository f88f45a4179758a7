"""Health checks of the instances that this replica owns: on an interval, with jitter, and with thresholds."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from configsvc.background import Background, Kept, Supervisor
from configsvc.clock import Clock
from configsvc.domain.instances import CheckResult, Instance
from configsvc.probes.port import Probe, ProbeFailedError

# Looks at the same time. Each holds a socket and little else; more than this would be a burst of its own.
CONCURRENT_LOOKS = 64
# Of the interval, to either side, so that the checks of a fleet spread out.
JITTER = 0.2
# How often the list of what is due is looked at, as a part of the interval.
TICKS_PER_INTERVAL = 10


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many results in a row change an instance's state."""

    up: int
    down: int


# What a run is of: one incarnation, at one URL.
_Key = tuple[str, str, int, str]


@dataclass(slots=True)
class _Run:
    """Results in a row."""

    passed: bool
    length: int
    due: float


class HealthChecks:
    """Looks, counts, and tells: `told(instance, passed, changed)` after each look.

    `changed` says that a threshold was reached: the instance now is what the look said.
    """

    def __init__(
        self,
        *,
        probe: Probe,
        clock: Clock,
        thresholds: Thresholds,
        interval_seconds: float,
        instances: Callable[[], Sequence[Instance]],
        told: Callable[[Instance, bool, bool], "asyncio.Future[None] | None"],
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor(clock)
        self._work_task: Kept | None = None
        self._probe = probe
        self._clock = clock
        self._thresholds = thresholds
        self._interval_seconds = interval_seconds
        self._instances = instances
        self._told = told
        self._runs: dict[_Key, _Run] = {}
        self._looks = asyncio.Semaphore(CONCURRENT_LOOKS)
        self._background = Background("health checks")

    async def __aenter__(self) -> Self:
        self._work_task = self._supervisor.keep("health checks", self._work)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._work_task is not None:
            await self._work_task.end()
        await self._background.end()

    async def look(self, instance: Instance) -> CheckResult:
        """One look now. It counts like any other."""
        if not instance.health_check_url:
            return CheckResult(instance.instance_id, True, instance.status, 0.0, "", self._clock.now(), skipped=True)
        async with self._looks:
            began = self._clock.monotonic()
            problem = ""
            try:
                await self._probe.look(instance.health_check_url)
            except ProbeFailedError as error:
                problem = str(error)
            latency = (self._clock.monotonic() - began) * 1000
        changed = self._count(instance, passed=not problem)
        told = self._told(instance, not problem, changed)
        if told is not None:
            await told
        return CheckResult(instance.instance_id, not problem, instance.status, latency, problem, self._clock.now())

    def _count(self, instance: Instance, *, passed: bool) -> bool:
        run = self._runs.setdefault(_key(instance), _Run(passed, 0, self._next()))
        run.length = run.length + 1 if run.passed == passed else 1
        run.passed = passed
        return run.length >= (self._thresholds.up if passed else self._thresholds.down)

    async def _work(self) -> None:
        while True:
            await self._clock.sleep(self._interval_seconds / TICKS_PER_INTERVAL)
            now = self._clock.monotonic()
            checked = {_key(i): i for i in self._instances() if i.health_check_url}
            self._runs = {key: run for key, run in self._runs.items() if key in checked}
            for key, instance in checked.items():
                run = self._runs.setdefault(key, _Run(True, 0, now + random.uniform(0, self._interval_seconds / 2)))
                if run.due <= now:
                    run.due = self._next()
                    self._background.start(self.look(instance))

    def _next(self) -> float:
        return self._clock.monotonic() + self._interval_seconds * random.uniform(1 - JITTER, 1 + JITTER)


def _key(instance: Instance) -> "_Key":
    return (instance.service_name, instance.instance_id, instance.incarnation, instance.health_check_url)
