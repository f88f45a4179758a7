"""Watches of a replica in this process, without a server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from configsvc_client.v1 import config_pb2, config_pb2_grpc

from configsvc.app.configs.near_cache import NearCache
from configsvc.app.configs.store import ConfigStore
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.clock import SystemClock
from configsvc.domain.configs import Config
from configsvc.domain.limits import Limits
from configsvc.domain.records import Action, Author, Kind, Put, Ref, Write
from configsvc.rpc.interceptors import AccessLog, CallInterceptor
from configsvc.rpc.servicers.configs import ConfigServicer
from configsvc.rpc.services import ServicerHandlers
from tests.app.replica import AT, Replica
from tests.rpc.engines import serving

ALL = Selector(Kind.CONFIG, "test")


def open_hub(
    replica: Replica, max_watchers: int = 10, progress_seconds: float = 60, buffer_changes: int = 100
) -> WatchHub:
    """A hub that follows the log of a replica."""
    hub = WatchHub(
        tail=replica.tail,
        reader=replica.storage,
        log=replica.storage,
        clock=SystemClock(),
        buffer_changes=buffer_changes,
        progress_seconds=progress_seconds,
        max_watchers=max_watchers,
    )
    return replica.following(hub)


@asynccontextmanager
async def serving_configs(kind: str, replica: Replica, hub: WatchHub) -> AsyncIterator[str]:
    """The address at which an engine of this kind serves the configurations of a replica."""
    store = ConfigStore(
        writer=replica.storage, reader=replica.storage, history=replica.storage, limits=Limits(),
        near_cache=NearCache(reader=replica.storage, tail=replica.tail, max_entries=100),
    )  # fmt: skip
    interceptor = CallInterceptor(
        tail=replica.tail, default_deadline_seconds=10, access_log=AccessLog(writes_all=True, slow_seconds=1)
    )
    handlers: Any = ServicerHandlers()
    config_pb2_grpc.add_ConfigServiceServicer_to_server(ConfigServicer(store, hub, SystemClock()), handlers)
    methods = [interceptor.surround(path, handler) for path, handler in handlers.by_path.items()]
    async with serving(kind, methods) as address:
        yield address


async def put(replica: Replica, ref: Ref, value: str) -> None:
    """A configuration as the service writes it."""
    mutation = Put(ref, Config(value).body, Action.UPDATE)
    commit = await replica.storage.write(Write(Author("tester", "", "", AT), (ref,), lambda view: (mutation,)))
    replica.tail.on_commit(commit)


def snapshot(configs: Sequence[Any]) -> Any:
    return config_pb2.ConfigSnapshot(configs=configs)
