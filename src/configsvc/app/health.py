"""The state of each part of this replica, as people and balancers ask for it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from configsvc.clock import Clock
from configsvc.errors import ServiceError

# A part that takes longer is down for whoever waits.
LOOK_SECONDS = 1.0
UP, DEGRADED, DOWN = "up", "degraded", "down"
# Where wall time and monotonic time differ by more since a part changed, the wall clock has jumped.
JUMP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """A backend, or another part. `effect` says what it means for users that it is down.

    What `trouble` says, if anything, makes it degraded; what `note` says is worth knowing though all is well.
    """

    name: str
    backend: str
    ping: Callable[[], Awaitable[None]]
    effect: Callable[[], Awaitable[str]]
    trouble: Callable[[], str] = lambda: ""
    note: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class Component:
    """The state of a part, since when (on the wall, and on the monotonic clock), and how long the look took."""

    name: str
    backend: str
    state: str
    latency_ms: float
    detail: str
    since: datetime
    changed_at: float


@dataclass(frozen=True, slots=True)
class Health:
    """All parts. `ready`: this replica should get traffic.

    `status`: `up`; `degraded` if a part is not up, and what is left goes on; `down` if it is not ready.
    """

    status: str
    ready: bool
    components: tuple[Component, ...]


class HealthBoard:
    """Looks at every part when asked, all at once.

    A replica is ready when it has a complete view (`is_complete`) and is not stopping. A backend that goes away later
    takes nothing from that: reads go on from the caches, and taking all replicas out at once would help nobody.
    """

    def __init__(self, parts: tuple[Part, ...], clock: Clock, is_complete: Callable[[], bool]) -> None:
        self._parts = parts
        self._is_complete = is_complete
        self._clock = clock
        self._since: Mapping[str, Component] = {}
        self.stopping = False

    async def look(self) -> Health:
        """The state of every part now."""
        found = await asyncio.gather(*(self._one(part) for part in self._parts))
        before = self._since
        components = tuple(
            _continued(before[c.name], c) if c.name in before and before[c.name].state == c.state else c for c in found
        )
        self._since = {component.name: component for component in components}
        ready = self._is_complete() and not self.stopping
        status = DOWN if not ready else DEGRADED if any(c.state != UP for c in components) else UP
        return Health(status, ready, tuple(_described(component) for component in components))

    async def _one(self, part: Part) -> Component:
        began, state, detail = self._clock.monotonic(), UP, ""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await part.ping()
            detail = part.trouble()
            state, detail = (DEGRADED, detail) if detail else (UP, part.note())
        except ServiceError as error:
            state, detail = DOWN, f"{error}; {await part.effect()}"
        except TimeoutError:
            state, detail = DOWN, f"no answer within {LOOK_SECONDS:g} s; {await part.effect()}"
        ended = self._clock.monotonic()
        return Component(part.name, part.backend, state, (ended - began) * 1000, detail, self._clock.now(), ended)


def _continued(before: Component, now: Component) -> Component:
    """The same state as before, since when it is so; told anew on a wall clock that has jumped meanwhile."""
    since = now.since - timedelta(seconds=now.changed_at - before.changed_at)
    if abs((since - before.since).total_seconds()) < JUMP_SECONDS:
        since = before.since
    return replace(now, since=since, changed_at=before.changed_at)


def _described(component: Component) -> Component:
    if component.state == UP:
        return component
    return replace(component, detail=f"{component.state} since {component.since.isoformat()}: {component.detail}")
