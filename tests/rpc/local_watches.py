"""Watches of a replica in this process, without a server."""

from collections.abc import Sequence
from typing import Any

from configsvc_client.v1 import config_pb2

from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.clock import SystemClock
from configsvc.domain.configs import Config
from configsvc.domain.records import Action, Author, Kind, Put, Ref, Write
from tests.app.replica import AT, Replica

ALL = Selector(Kind.CONFIG, "test")


def open_hub(replica: Replica, max_watchers: int = 10, progress_seconds: float = 60) -> WatchHub:
    """A hub that follows the log of a replica."""
    hub = WatchHub(
        tail=replica.tail,
        reader=replica.storage,
        log=replica.storage,
        clock=SystemClock(),
        buffer_changes=100,
        progress_seconds=progress_seconds,
        max_watchers=max_watchers,
    )
    return replica.following(hub)


async def put(replica: Replica, ref: Ref, value: str) -> None:
    """A configuration as the service writes it."""
    mutation = Put(ref, Config(value).body, Action.UPDATE)
    commit = await replica.storage.write(Write(Author("tester", "", "", AT), (ref,), lambda view: (mutation,)))
    replica.tail.on_commit(commit)


def snapshot(configs: Sequence[Any]) -> Any:
    return config_pb2.ConfigSnapshot(configs=configs)
