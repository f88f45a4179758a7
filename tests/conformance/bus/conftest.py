"""The adapters that the suite runs over. An adapter is a way to open the bus; add it to `ADAPTERS`.

`open_bus` opens a bus; every bus of one test is a replica on the same backend.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import pytest
from psycopg import AsyncConnection

from configsvc.bus.kafka.bus import KafkaBus
from configsvc.bus.kafka.publisher import KafkaPublisher
from configsvc.bus.local import LocalBus
from configsvc.bus.notify import CHANNEL, NotifyBus
from configsvc.bus.port import Bus
from configsvc.domain.records import Change
from configsvc.storage.postgres.storage import PostgresStorage

OpenBus = Callable[[], Awaitable[Bus]]
Adapter = Callable[[pytest.FixtureRequest, AsyncExitStack], OpenBus]


def local(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenBus:
    """All replicas of one process are the process: they share the bus."""
    opened: list[LocalBus] = []

    async def open_bus() -> Bus:
        if not opened:
            opened.append(await stack.enter_async_context(LocalBus()))
        return opened[0]

    return open_bus


def kafka(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenBus:
    """What is announced reaches the topic through the publisher, as the outbox's relay has it."""
    bootstrap: str = request.getfixturevalue("kafka_bootstrap")
    topic: str = request.getfixturevalue("topic")

    async def open_bus() -> Bus:
        publisher = await stack.enter_async_context(KafkaPublisher(bootstrap, topic))
        bus = await stack.enter_async_context(_Relayed(KafkaBus(bootstrap, topic), publisher))
        await bus.listening()
        return bus

    return open_bus


def notify(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenBus:
    """What is announced was notified by the commit before; here by a statement of its own."""
    url: str = request.getfixturevalue("postgres_url")

    async def open_bus() -> Bus:
        # The schema has the head that a listener asks for.
        async with PostgresStorage(url):
            pass
        bus = await stack.enter_async_context(_Notified(NotifyBus(url), url))
        await bus.listening()
        return bus

    return open_bus


class _Told:
    """A bus, and what stands beside it in a whole replica: what tells the others."""

    def __init__(self, bus: KafkaBus | NotifyBus) -> None:
        self._bus = bus
        self._untold: list[Change] = []
        self._telling: asyncio.Task[None] | None = None
        self.name = bus.name
        self.reached = bus.reached
        self.ping = bus.ping
        self.listening = bus.listening

    def announce(self, changes: Sequence[Change]) -> None:
        self._bus.announce(changes)
        self._untold += changes
        if self._untold and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        while self._untold:
            changes, self._untold = self._untold, []
            await self.tell(changes)

    async def tell(self, changes: Sequence[Change]) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self._bus.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._telling is not None:
            await self._telling
        await self._bus.__aexit__(kind, error, trace)


class _Relayed(_Told):
    def __init__(self, bus: KafkaBus, publisher: KafkaPublisher) -> None:
        super().__init__(bus)
        self._publisher = publisher

    async def tell(self, changes: Sequence[Change]) -> None:
        while changes:
            receipt = await self._publisher.publish(changes)
            assert receipt.problem is None, receipt.problem
            changes = changes[len(receipt.deliveries) :]


class _Notified(_Told):
    def __init__(self, bus: NotifyBus, url: str) -> None:
        super().__init__(bus)
        self._url = url

    async def tell(self, changes: Sequence[Change]) -> None:
        async with await AsyncConnection.connect(self._url, autocommit=True) as connection:
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(changes[-1].revision)))


ADAPTERS: dict[str, Adapter] = {"local": local, "notify": notify, "kafka": kafka}


@pytest.fixture(params=ADAPTERS)
async def open_bus(request: pytest.FixtureRequest) -> AsyncIterator[OpenBus]:
    async with AsyncExitStack() as stack:
        yield ADAPTERS[request.param](request, stack)


@pytest.fixture
async def bus(open_bus: OpenBus) -> Bus:
    return await open_bus()
