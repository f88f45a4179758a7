"""Start and memory: an empty server, and the memory that watchers and configurations add.

Memory is what the process holds for itself (private pages). etcd also maps its database, which is shared memory of the
system's cache, and is not counted on any side.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import grpc
from configsvc_client.v1 import config_pb2, config_pb2_grpc

from benchmarks import processes
from benchmarks.comparisons.sides import ETCD, OURS
from benchmarks.load import Load, Target, Watch
from benchmarks.measure import Figure, Table
from benchmarks.placement import Placement
from benchmarks.processes import Server
from benchmarks.run import Run
from benchmarks.targets import configsvc, etcd

KIB, MIB = 1 << 10, 1 << 20
PAGE = 100


@dataclass(frozen=True, slots=True)
class Side:
    """How to start a server, to fill it, to read all that it has, and to watch it."""

    start: Callable[[], AbstractContextManager[Server]]
    fill: Callable[[str, int], None]
    read: Callable[[str, int], None]
    watch: Callable[[str], tuple[Target, Watch]]


def tables(run: Run, placement: Placement) -> list[Table]:
    """Every figure is of a new server in each round."""
    watchers, keys = run.effort.size(1_000, 20), run.effort.size(5_000, 100)
    with ExitStack() as stack:
        run = run.on(placement, stack)
        sides = {OURS: _ours(run)}
        if run.has(ETCD, run.programs.etcd):
            sides[ETCD] = Side(
                lambda: processes.etcd(run.programs.etcd(), placement),
                etcd.fill,
                lambda address, _count: etcd.read_all(address),
                lambda address: (etcd.put(address), etcd.watch()),
            )
        found: dict[str, dict[str, list[float]]] = {}
        for _ in range(run.effort.rounds):
            for side, how in sides.items():
                for name, value in _round(run, how, watchers, keys).items():
                    found.setdefault(name, {}).setdefault(side, []).append(value)

        def table(key: str, title: str, unit: str) -> Table:
            figures = [Figure(side, tuple(values)) for side, values in found[key].items()]
            return run.table(f"resources.{key}", title, unit, figures)

        return [
            table("start", "From start to ready", "s"),
            table("memory", "Memory of a new server", "MiB"),
            table("watcher", f"Memory for one watcher, of {watchers:,}", "KiB"),
            table("configs", f"Memory for 1,000 configurations of {configsvc.VALUE_CHARACTERS} characters", "MiB"),
        ]


def _ours(run: Run) -> Side:
    @contextmanager
    def start() -> Iterator[Server]:
        with (
            run.services.postgres.database() as url,
            processes.service("resources", run.placement, {"DATABASE_URL": url}) as server,
        ):
            yield server

    def read(address: str, count: int) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = config_pb2_grpc.ConfigServiceStub(channel)
            for first in range(0, count, PAGE):
                names = [configsvc.key(number) for number in range(first, first + PAGE)]
                stub.BulkGetConfigs(config_pb2.BulkGetConfigsRequest(environment=configsvc.ENVIRONMENT, keys=names))

    return Side(
        start,
        lambda address, count: configsvc.fill(address, keys=count),
        read,
        lambda address: (configsvc.update_config().grpc(address, check=False), configsvc.watch()),
    )


def _round(run: Run, side: Side, watchers: int, keys: int) -> dict[str, float]:
    with side.start() as server:
        start, empty = server.start_seconds, server.memory_bytes
        side.fill(server.address, 0)
        target, watch = side.watch(server.address)
        before = server.memory_bytes
        with Load(run.programs.load(), run.placement, target, watch=watch, watchers=watchers) as load:
            load.events(1)
            watched = server.memory_bytes - before
    with side.start() as server:
        before = server.memory_bytes
        side.fill(server.address, keys)
        side.read(server.address, keys)
        configs = server.memory_bytes - before
    return {
        "start": start,
        "memory": empty / MIB,
        "watcher": watched / watchers / KIB,
        "configs": configs / keys * 1_000 / MIB,
    }
