"""The bus of one process: whoever listens to the same `LocalBus` hears every announcement made on it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self
from weakref import WeakSet

from configsvc.domain.records import Change


class _Subscriber:
    """One listener: the highest revision that it has not taken yet."""

    def __init__(self, closed: bool) -> None:
        self._revision = 0
        self._closed = closed
        self._heard = asyncio.Event()

    def hear(self, revision: int) -> None:
        self._revision = max(self._revision, revision)
        self._heard.set()

    def close(self) -> None:
        self._closed = True
        self._heard.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        while not self._revision:
            if self._closed:
                raise StopAsyncIteration
            self._heard.clear()
            await self._heard.wait()
        revision, self._revision = self._revision, 0
        return revision


class LocalBus:
    """Announcements within one process. An iterator that nobody holds any more is forgotten."""

    def __init__(self) -> None:
        self._ears: WeakSet[_Subscriber] = WeakSet()
        self._closed = False

    @property
    def name(self) -> str:
        """`local`."""
        return "local"

    def announce(self, changes: Sequence[Change]) -> None:
        """Tells every listener at once."""
        if changes:
            self.tell(changes[-1].revision)

    def tell(self, revision: int) -> None:
        """Tells every listener that the log has reached a revision."""
        if revision and not self._closed:
            for ear in self._ears:
                ear.hear(revision)

    def reached(self) -> AsyncIterator[int]:
        """Listens from this call on, not only from the first step of the iterator."""
        ear = _Subscriber(self._closed)
        self._ears.add(ear)
        return ear

    async def ping(self) -> None:
        """Returns: there is nothing that could be away."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for ear in self._ears:
            ear.close()
