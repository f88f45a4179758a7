"""The state of each part of this replica, as people and balancers ask for it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from configsvc.clock import Clock
from configsvc.errors import ServiceError

# A part that takes longer is down for whoever waits.
LOOK_SECONDS = 1.0
UP, DEGRADED, DOWN = "up", "degraded", "down"


@dataclass(frozen=True, slots=True)
class Part:
    """A backend. Without a required one the replica should get no traffic."""

    name: str
    backend: str
    ping: Callable[[], Awaitable[None]]
    required: bool


@dataclass(frozen=True, slots=True)
class Component:
    """The state of a part, since when, and how long the look took."""

    name: str
    backend: str
    state: str
    latency_ms: float
    detail: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Health:
    """All parts. `ready`: this replica should get traffic."""

    status: str
    ready: bool
    components: tuple[Component, ...]


class HealthBoard:
    """Looks at every part when asked, all at once."""

    def __init__(self, parts: tuple[Part, ...], clock: Clock) -> None:
        self._parts = parts
        self._clock = clock
        self._since: Mapping[str, Component] = {}
        self.stopping = False

    async def look(self) -> Health:
        """The state of every part now."""
        found = await asyncio.gather(*(self._one(part) for part in self._parts))
        before = self._since
        components = tuple(
            replace(c, since=before[c.name].since) if c.name in before and before[c.name].state == c.state else c
            for c in found
        )
        self._since = {component.name: component for component in components}
        down = {component.name for component in components if component.state == DOWN}
        required_down = any(part.name in down for part in self._parts if part.required)
        status = DOWN if required_down or self.stopping else DEGRADED if down else UP
        return Health(status, status != DOWN, components)

    async def _one(self, part: Part) -> Component:
        began, state, detail = self._clock.monotonic(), UP, ""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await part.ping()
        except ServiceError as error:
            state, detail = DOWN, str(error)
        except TimeoutError:
            state, detail = DOWN, f"no answer within {LOOK_SECONDS:g} s"
        latency = (self._clock.monotonic() - began) * 1000
        return Component(part.name, part.backend, state, latency, detail, self._clock.now())
