"""What the registry tells, acted on until that has worked.

An event says what to look at, not what is there. So one that could not be acted on is kept, merged with others of the
same content, and tried again after a pause; and whoever begins to listen, or is connected anew, begins with everything.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

from configsvc.clock import Clock
from configsvc.errors import ServiceError
from configsvc.registry.port import (
    NodesChanged,
    RegistryEvent,
    ReplicasChanged,
    ServiceRegistryClient,
    SessionChanged,
    SessionState,
)

logger = logging.getLogger(__name__)

# Between two tries at what did not work.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class _Everything:
    """Anything may have changed."""


_EVERYTHING = _Everything()
_News = _Everything | RegistryEvent


class Reconciler:
    """Calls `look(service)` for each service whose nodes may have changed, and `adopt()` if replicas may have gone.

    `known` names services to look at even if they have no nodes any more; `connected` is called after each new
    connection, before anything is looked at.
    """

    def __init__(
        self,
        *,
        registry: ServiceRegistryClient,
        clock: Clock,
        look: Callable[[str], Awaitable[None]],
        adopt: Callable[[], Awaitable[None]],
        known: Callable[[], Iterable[str]],
        connected: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._look = look
        self._adopt = adopt
        self._known = known
        self._connected = connected
        self._events: AsyncIterator[RegistryEvent] | None = None
        self._pending: dict[_News, None] = {}
        self._wake = asyncio.Event()
        # What did not work, and waits for its next try.
        self._failed: dict[_News, None] = {}
        self._has_failed = asyncio.Event()
        self._pause = SHORTEST_PAUSE_SECONDS
        self._said = ""
        # None until the registry has told it: calls say so, then.
        self._session: SessionState | None = None
        # Services that have not been looked at since the connection began; None: nobody knows which.
        self._unread: set[str] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the registry can be reached, and all of it was read since that is so."""
        return self._session in (None, SessionState.CONNECTED) and self._unread is not None and not self._unread

    async def begin(self) -> None:
        """Listens from now on, and acts once on all that there is."""
        self._events = self._registry.events()
        self._pending[_EVERYTHING] = None
        await self._act_on_pending()

    def meet(self) -> None:
        """Acts on all that there is, soon."""
        self._pending[_EVERYTHING] = None
        self._wake.set()

    def again(self, service: str) -> None:
        """Looks at a service once more, after a pause: what was to be shown of it could not be."""
        self._failed[NodesChanged(service)] = None
        self._has_failed.set()

    async def follow(self) -> None:
        """Acts on the news until the registry is closed."""
        events, self._events = self._events, None
        if events is None:
            events = self._registry.events()
            self._pending[_EVERYTHING] = None
        self._wake.set()
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(work, name="registry-news") for work in (self._act(), self._retry())]
            async for event in events:
                self._heed(event)
            for task in working:
                task.cancel()

    def _heed(self, event: RegistryEvent) -> None:
        if isinstance(event, SessionChanged):
            self._session = event.state
            self._unread = None
            self._pending.clear()
            self._failed.clear()
            if event.state is SessionState.CONNECTED:
                self._connected()
                self._pending[_EVERYTHING] = None
        else:
            # Behind those that wait: it is news again.
            self._pending.pop(event, None)
            self._pending[event] = None
        self._wake.set()

    async def _act(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._act_on_pending()

    async def _retry(self) -> None:
        while True:
            await self._has_failed.wait()
            await self._clock.sleep(random.uniform(self._pause / 2, self._pause))
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._has_failed.clear()
            failed, self._failed = self._failed, {}
            for event in failed:
                self._pending.setdefault(event)
            self._wake.set()

    async def _act_on_pending(self) -> None:
        while self._pending:
            # A replica that has gone comes first: until its instances are claimed, ZooKeeper's own readers miss them.
            gone = ReplicasChanged()
            event = gone if gone in self._pending else next(iter(self._pending))
            del self._pending[event]
            session = self._session
            try:
                await self._act_on(event)
            except ServiceError as error:
                # Once for each reason, not with each try.
                level = logging.DEBUG if str(error) == self._said else logging.WARNING
                logger.log(level, "the registry's news could not be acted on: %s", error)
                self._said = str(error)
                if session is self._session:
                    self._failed[event] = None
                    self._has_failed.set()
        if not self._failed:
            self._pause, self._said = SHORTEST_PAUSE_SECONDS, ""

    async def _act_on(self, event: _News) -> None:
        match event:
            case _Everything():
                unread = {*await self._registry.services(), *self._known()}
                self._unread = set(unread)
                self._pending[ReplicasChanged()] = None
                self._pending.update((NodesChanged(service), None) for service in sorted(unread))
            case ReplicasChanged():
                await self._adopt()
            case NodesChanged(service):
                await self._look(service)
                if self._unread is not None:
                    self._unread.discard(service)
