"""The adapters that the suite runs over. To add one, write a function that returns how to open its bus.

All buses that a test opens with `open_bus` are replicas on the same backend.
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
from configsvc.bus.port import Bus
from configsvc.bus.postgres import PostgresBus
from configsvc.domain.records import Change
from configsvc.storage.postgres.connection import CHANNEL
from configsvc.storage.postgres.storage import PostgresStorage

OpenBus = Callable[[], Awaitable[Bus]]
Adapter = Callable[[pytest.FixtureRequest, AsyncExitStack], OpenBus]


def local(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenBus:
    """All replicas share the bus, because they are in one process."""
    opened: list[LocalBus] = []

    async def open_bus() -> Bus:
        if not opened:
            opened.append(await stack.enter_async_context(LocalBus()))
        return opened[0]

    return open_bus


def kafka(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenBus:
    """Announced changes reach the topic through the publisher, as with the outbox relay."""
    bootstrap: str = request.getfixturevalue("kafka_bootstrap")
    topic: str = request.getfixturevalue("topic")

    async def open_bus() -> Bus:
        publisher = await stack.enter_async_context(KafkaPublisher(bootstrap, topic))
        bus = await stack.enter_async_context(_RelayedBus(KafkaBus(bootstrap, topic), publisher))
        await bus.wait_until_listening()
        return bus

    return open_bus


def postgres(request: pytest.FixtureRequest, stack: AsyncExitStack) -> OpenBus:
    """In the service the commit notifies. Here a statement of its own does."""
    url: str = request.getfixturevalue("postgres_url")

    async def open_bus() -> Bus:
        # The bus reads the head, so the schema must exist.
        async with PostgresStorage(url):
            pass
        bus = await stack.enter_async_context(_NotifiedBus(PostgresBus(url, CHANNEL), url))
        await bus.wait_until_listening()
        return bus

    return open_bus


class _AnnouncingBus:
    """A bus with the part of a replica that tells the other replicas: the outbox relay, or the commit itself."""

    def __init__(self, bus: KafkaBus | PostgresBus) -> None:
        self._bus = bus
        self._unsent: list[Change] = []
        self._sending: asyncio.Task[None] | None = None
        self.name = bus.name
        self.subscribe = bus.subscribe
        self.ping = bus.ping
        self.wait_until_listening = bus.wait_until_listening

    def announce(self, changes: Sequence[Change]) -> None:
        self._bus.announce(changes)
        self._unsent += changes
        if self._unsent and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._unsent:
            changes, self._unsent = self._unsent, []
            await self.send(changes)

    async def send(self, changes: Sequence[Change]) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self._bus.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sending is not None:
            await self._sending
        await self._bus.__aexit__(kind, error, trace)


class _RelayedBus(_AnnouncingBus):
    def __init__(self, bus: KafkaBus, publisher: KafkaPublisher) -> None:
        super().__init__(bus)
        self._publisher = publisher

    async def send(self, changes: Sequence[Change]) -> None:
        while changes:
            receipt = await self._publisher.publish(changes)
            assert receipt.problem is None, receipt.problem
            changes = changes[len(receipt.deliveries) :]


class _NotifiedBus(_AnnouncingBus):
    def __init__(self, bus: PostgresBus, url: str) -> None:
        super().__init__(bus)
        self._url = url

    async def send(self, changes: Sequence[Change]) -> None:
        async with await AsyncConnection.connect(self._url, autocommit=True) as connection:
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(changes[-1].revision)))


ADAPTERS: dict[str, Adapter] = {"local": local, "postgres": postgres, "kafka": kafka}


@pytest.fixture(params=ADAPTERS)
async def open_bus(request: pytest.FixtureRequest) -> AsyncIterator[OpenBus]:
    async with AsyncExitStack() as stack:
        yield ADAPTERS[request.param](request, stack)


@pytest.fixture
async def bus(open_bus: OpenBus) -> Bus:
    return await open_bus()
