"""The adapters that the suite runs on. An adapter yields a `Backend`; add a new one to `ADAPTERS`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from kazoo.client import KazooClient

from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.registry.port import ServiceRegistryClient
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient

SESSION_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Backend:
    """One registry. `open` opens a replica's session; `expire` makes one expire."""

    open: Callable[[str], Awaitable[ServiceRegistryClient]]
    expire: Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def local(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    registry = LocalRegistry()

    async def expire(client: LocalRegistryClient) -> None:
        client.expire()
        client.resume()

    async with AsyncExitStack() as stack:

        async def open_(replica_id: str) -> ServiceRegistryClient:
            return await stack.enter_async_context(LocalRegistryClient(registry, replica_id))

        yield Backend(open_, expire)


@asynccontextmanager
async def zookeeper(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    hosts: str = request.getfixturevalue("zookeeper_hosts")
    base_path: str = request.getfixturevalue("chroot")

    async with AsyncExitStack() as stack:

        async def open_(replica_id: str) -> ServiceRegistryClient:
            return await stack.enter_async_context(
                ZookeeperRegistryClient(
                    hosts, base_path, replica_id, connection_seconds=30, session_seconds=SESSION_SECONDS
                )
            )

        yield Backend(open_, lambda client: expire_session(hosts, client))


async def expire_session(hosts: str, client: Any) -> None:
    """Expires a ZooKeeper session without its client's knowledge: another client takes it over, and closes it."""

    def run() -> None:
        thief = KazooClient(hosts, client_id=client._session._client.client_id)
        thief.start(30)
        thief.stop()
        thief.close()

    await asyncio.get_running_loop().run_in_executor(None, run)


ADAPTERS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Backend]]] = {
    "local": local,
    "zookeeper": zookeeper,
}


@pytest.fixture(params=ADAPTERS)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    async with ADAPTERS[request.param](request) as opened:
        yield opened
