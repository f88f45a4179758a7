"""The health of this replica and its components, for operators and load balancers."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from configsvc.clock import Clock, run_within
from configsvc.errors import ServiceError

# A component that doesn't answer within this time is down. Load balancers wait for the answer, often for no more than two
# seconds.
CHECK_SECONDS = 1.0
UP, DEGRADED, DOWN = "up", "degraded", "down"
# If wall time and monotonic time since a change of state differ by more than this, the wall clock has jumped.
JUMP_SECONDS = 1.0


async def _answers() -> None:
    """The check of a component that is part of this process: it can't be unreachable."""


async def _no_effect() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Component:
    """A backend, or a part of this process, whose health is checked.

    `ping` raises a `ServiceError` if the component is down; `effect` tells what users notice while it is. Both
    `degradation` and `note` return a text, or nothing: the first says why a component that answers is degraded, the second
    what an operator should know about one that is up.
    """

    name: str
    backend: str
    ping: Callable[[], Coroutine[Any, Any, None]] = _answers
    effect: Callable[[], Awaitable[str]] = _no_effect
    degradation: Callable[[], str] = lambda: ""
    note: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """The state of a component, and how long its check took.

    The state has lasted since `since` in wall time, and since `changed_at` in monotonic time.
    """

    name: str
    backend: str
    state: str
    latency_ms: float
    detail: str
    since: datetime
    changed_at: float


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a replica. `ready`: load balancers should send traffic to it.

    `status` is `down` if the replica is not ready, `degraded` if any component is not up, else `up`.
    """

    status: str
    ready: bool
    components: tuple[ComponentHealth, ...]


class ReplicaHealth:
    """Checks every component when asked, all at the same time.

    A replica is ready if its view is complete (`is_complete`) and it is not stopping. It stays ready when a backend goes
    away later: it answers reads from its caches, and if all replicas became unready at once, nobody would be served.
    """

    def __init__(self, components: Sequence[Component], clock: Clock, is_complete: Callable[[], bool]) -> None:
        self._components = components
        self._is_complete = is_complete
        self._clock = clock
        self._last: Mapping[str, ComponentHealth] = {}
        self.stopping = False

    async def check(self) -> Health:
        """The state of every component now."""
        checked = await asyncio.gather(*(self._check(component) for component in self._components))
        last = self._last
        components = tuple(
            _continued(last[c.name], c) if c.name in last and last[c.name].state == c.state else c for c in checked
        )
        self._last = {component.name: component for component in components}
        ready = self._is_complete() and not self.stopping
        status = DOWN if not ready else DEGRADED if any(c.state != UP for c in components) else UP
        return Health(status, ready, tuple(_with_since(component) for component in components))

    async def _check(self, component: Component) -> ComponentHealth:
        started_at = self._clock.monotonic()
        try:
            await run_within(self._clock, CHECK_SECONDS, component.ping())
        except ServiceError as error:
            state, detail = DOWN, f"{error}; {await component.effect()}"
        except TimeoutError:
            state, detail = DOWN, f"no answer within {CHECK_SECONDS:g} s; {await component.effect()}"
        else:
            degradation = component.degradation()
            state, detail = (DEGRADED, degradation) if degradation else (UP, component.note())
        now = self._clock.monotonic()
        latency_ms = (now - started_at) * 1000
        return ComponentHealth(component.name, component.backend, state, latency_ms, detail, self._clock.now(), now)


def _continued(last: ComponentHealth, now: ComponentHealth) -> ComponentHealth:
    """`now`, whose state has lasted since before `last`. If the wall clock has jumped since then, `since` is recomputed."""
    since = now.since - timedelta(seconds=now.changed_at - last.changed_at)
    if abs((since - last.since).total_seconds()) < JUMP_SECONDS:
        since = last.since
    return replace(now, since=since, changed_at=last.changed_at)


def _with_since(component: ComponentHealth) -> ComponentHealth:
    if component.state == UP:
        return component
    return replace(component, detail=f"{component.state} since {component.since.isoformat()}: {component.detail}")
