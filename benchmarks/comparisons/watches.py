"""How soon one write reaches all of many watchers, each with its own stream, a hundred streams on a connection."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import processes
from benchmarks.comparisons.sides import ETCD, ON_SQLITE, OURS
from benchmarks.load import Load, Target, Watch
from benchmarks.measure import Figure, Table
from benchmarks.placement import Placement
from benchmarks.run import Run
from benchmarks.targets import configsvc, etcd

WATCHERS = (1, 100, 1_000, 5_000)
FEW_WATCHERS = (1, 20)
EVENTS_A_ROUND = 5


def tables(run: Run, placement: Placement) -> list[Table]:
    """One table for each number of watchers."""
    with ExitStack() as stack:
        run = run.on(placement, stack)
        url = stack.enter_context(run.services.postgres.database())
        on_postgres = run.server(processes.service("watches", placement, {"DATABASE_URL": url})).address
        on_sqlite = run.server(processes.service("watches-sqlite", placement, {})).address
        sides: dict[str, tuple[Target, Watch]] = {}
        for side, address in ((OURS, on_postgres), (ON_SQLITE, on_sqlite)):
            configsvc.fill(address, keys=0)
            sides[side] = (configsvc.update_config().grpc(address, check=False), configsvc.watch())
        if server := run.peer(ETCD, lambda: processes.etcd(run.programs.etcd(), placement)):
            etcd.fill(server.address, 0)
            sides[ETCD] = (etcd.put(server.address), etcd.watch())
        return [_table(run, sides, count) for count in (FEW_WATCHERS if run.effort.small else WATCHERS)]


def _table(run: Run, sides: dict[str, tuple[Target, Watch]], count: int) -> Table:
    with ExitStack() as watching:

        def round_of(target: Target, watch: Watch) -> Callable[[], float]:
            made = Load(run.programs.load(), run.placement, target, watch=watch, watchers=count)
            load = watching.enter_context(made)
            load.events(1)
            return lambda: statistics.median(load.events(EVENTS_A_ROUND))

        rounds = {side: round_of(*how) for side, how in sides.items()}
        values: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(run.effort.rounds):
            for side, measure in rounds.items():
                values[side].append(measure())
    figures = [Figure(side, tuple(each)) for side, each in values.items()]
    title = f"One write to {count:,} watcher{'s' if count > 1 else ''}"
    return run.table(f"watch.{count}", title, "ms", figures, "Until the last has it, from the request of the write on.")
