"""Register, heartbeat and discover, while many instances are registered.

kazoo alone creates an ephemeral node, reads whether one exists (its session is its lease), or reads the children of a
node and their data. This service does the same, and its registration is also a durable, audited row, which outlives the
caller. It answers a discovery from memory, with health checks.

kazoo's process runs where servers run: it takes the place of this service, and its caller needs no RPC.
"""

import asyncio
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from benchmarks import processes
from benchmarks.comparisons.sides import EUREKA, KAZOO, OURS
from benchmarks.load import Session, Target
from benchmarks.measure import Round, Table, in_turns
from benchmarks.placement import Placement
from benchmarks.run import ALONE_PART, MANY, Run
from benchmarks.targets import configsvc, eureka
from configsvc.storage.postgres.storage import PostgresStorage
from tests.scale import filling

INSTANCES_A_SERVICE = 10
POLL_SECONDS = 0.2

Sides = Mapping[str, Callable[[int], Session]]


def tables(run: Run, placement: Placement) -> list[Table]:
    """Each operation with many and with one in flight."""
    instances = run.effort.size(10_000, 200)
    services = instances // INSTANCES_A_SERVICE
    with ExitStack() as stack:
        run = run.on(placement, stack)
        url = stack.enter_context(run.services.postgres.database())
        asyncio.run(with_instances(url, instances, services, "registry"))
        settings = {
            "DATABASE_URL": url,
            "ZOOKEEPER_HOSTS": run.services.zookeeper.address,
            "ZOOKEEPER_BASE_PATH": f"/{placement.name.replace(' ', '-')}",
        }
        ours = run.server(processes.service("registry", placement, settings)).address
        _await_nodes(run, instances)
        service = filling.service_name(0)
        ids = [f"instance-{number * services:07}" for number in range(INSTANCES_A_SERVICE)]
        work: dict[str, dict[str, Callable[[int], Session]]] = {
            "register": {OURS: _load(run, lambda: configsvc.register().grpc(ours, check=False))},
            "heartbeat": {OURS: _load(run, lambda: configsvc.heartbeat(service, ids).grpc(ours, check=False))},
            "discover": {OURS: _load(run, lambda: configsvc.discover(service).grpc(ours))},
        }
        for name, sides in work.items():
            sides[KAZOO] = _kazoo(run, name)
        if peer := run.peer(EUREKA, lambda: processes.eureka(run.programs.eureka(), placement)):
            eureka.fill(peer.address)
            run.send_all(eureka.others(peer.address, services, instances))
            targets = {
                "register": eureka.register(peer.address),
                "heartbeat": eureka.heartbeat(peer.address),
                "discover": eureka.discover(peer.address),
            }
            for name, target in targets.items():
                run.warm_up(target)
                work[name][EUREKA] = _load(run, partial(_same, target))
        title = f", {instances:,} instances"
        return [
            table
            for name, sides in work.items()
            for table in (
                _table(run, f"registry.{name}.many", f"{name.capitalize()}{title}, {MANY} in flight", sides, MANY),
                _table(run, f"registry.{name}.one", f"{name.capitalize()}{title}, one in flight", sides, 1),
            )
        ]


def _await_nodes(run: Run, count: int) -> None:
    """Waits until the service has made the nodes of all instances, which it does after it is ready."""
    deadline = time.monotonic() + processes.READY_SECONDS
    while _ephemeral_nodes(run) < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{_ephemeral_nodes(run)} of {count} instances are in ZooKeeper")
        time.sleep(POLL_SECONDS)


def _ephemeral_nodes(run: Run) -> int:
    found = re.search(r"zk_ephemerals_count\s+(\d+)", run.services.zookeeper.ask("mntr"))
    return int(found[1]) if found else 0


async def with_instances(url: str, instances: int, services: int, owner: str) -> None:
    """Fills a new database."""
    async with PostgresStorage(url):
        pass
    size = filling.Size(
        configs=1, environments=1, flags=1, services=services, instances=instances, versions=1, requests=0, removed=0
    )
    filling.fill_postgres(url, size, owner)


def _table(run: Run, key: str, title: str, sides: Sides, in_flight: int) -> Table:
    with ExitStack() as stack:
        sessions = {side: stack.enter_context(make(in_flight)) for side, make in sides.items()}
        many = in_flight > 1
        rounds: dict[str, Round] = {
            side: session.per_second if many else session.microseconds for side, session in sessions.items()
        }
        figures = in_turns(rounds, run.effort, 1.0 if many else ALONE_PART)
    return run.table(key, title, "answers/s" if many else "µs", figures)


def _load(run: Run, target: Callable[[], Target]) -> Callable[[int], Session]:
    # Made when its turn comes: the length of an answer depends on what was registered before.
    return lambda in_flight: run.load(target(), in_flight)


def _same(target: Target) -> Target:
    return target


def _kazoo(run: Run, work: str) -> Callable[[int], Session]:
    command = [*run.placement.on_server(), sys.executable, "-m", "benchmarks.alone.kazoo"]
    config = {"hosts": run.services.zookeeper.address, "work": work, "instances": INSTANCES_A_SERVICE}
    return lambda in_flight: Session(KAZOO, command, {**config, "in_flight": in_flight})
