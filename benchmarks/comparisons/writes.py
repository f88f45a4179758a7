"""Updates of one key: flushed to disk on every side before they are acknowledged.

The transaction itself is what PostgreSQL must do for one update, in one round trip by pgbench. Group commit alone is the
storage of this service, called from a process without RPC. Both have databases of their own.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from benchmarks import processes
from benchmarks.comparisons.pgbench import Pgbench
from benchmarks.comparisons.sides import ETCD, GROUP_COMMIT, ON_SQLITE, OURS, PGBENCH
from benchmarks.load import Session, Target
from benchmarks.measure import Measured, Round, Table, in_turns
from benchmarks.peers import MissingError
from benchmarks.placement import Placement
from benchmarks.run import ALONE_PART, MANY, Run
from benchmarks.targets import configsvc, etcd

# What measures a round.
Measuring = Session | Pgbench


def tables(run: Run, placement: Placement) -> list[Table]:
    """With many and with one in flight."""
    with ExitStack() as stack:
        run = run.on(placement, stack)
        url = stack.enter_context(run.services.postgres.database())
        ours = run.server(processes.service("writes", placement, {"DATABASE_URL": url}))
        on_sqlite = run.server(processes.service("writes-sqlite", placement, {}))
        gateway = run.server(processes.gateway(placement, ours.socket)).address
        update = configsvc.update_config()
        grpc = {
            OURS: (update.grpc(ours.address, check=False), lambda: configsvc.version(ours.address)),
            ON_SQLITE: (update.grpc(on_sqlite.address, check=False), lambda: configsvc.version(on_sqlite.address)),
        }
        rest = {OURS: (update.by_rest(gateway), lambda: configsvc.version(ours.address))}
        for server in (ours, on_sqlite):
            configsvc.fill(server.address, keys=0)
        if peer := run.peer(ETCD, lambda: processes.etcd(run.programs.etcd(), placement)):
            etcd.fill(peer.address, 0)
            grpc[ETCD] = (etcd.put(peer.address), lambda: etcd.version(peer.address))
            rest[ETCD] = (etcd.rest_put(peer.address), lambda: etcd.version(peer.address))
        return [
            *_both(run, "grpc.update", "Update of one key", grpc, _alone_of(run)),
            *_both(run, "rest.update", "Update of one key by REST", rest, lambda _: {}),
        ]


def _both(
    run: Run,
    key: str,
    title: str,
    targets: Mapping[str, tuple[Target, Callable[[], int]]],
    alone: Callable[[int], Mapping[str, Measuring]],
) -> list[Table]:
    found = []
    for in_flight, unit, name in ((MANY, "answers/s", "many"), (1, "µs", "one")):
        sides: dict[str, Round] = {}
        for side, (target, version) in targets.items():
            load = run.load(target, in_flight)
            sides[side] = _counted(load.per_second if in_flight > 1 else load.microseconds, load, version)
        for side, session in alone(in_flight).items():
            sides[side] = session.per_second if in_flight > 1 else session.microseconds
        figures = in_turns(sides, run.effort, 1.0 if in_flight > 1 else ALONE_PART)
        words = f"{in_flight} in flight" if in_flight > 1 else "one in flight"
        found.append(run.table(f"{key}.{name}", f"{title}, {words}", unit, figures))
    return found


def _counted(measure: Round, session: Session, version: Callable[[], int]) -> Round:
    """A round whose writes are counted in the store, too: each must have been done once."""

    def round_of(seconds: float) -> Measured:
        before = version()
        got = measure(seconds)
        wrong = abs(version() - before - session.answers)
        return Measured(got.value, got.errors + wrong, got.busy)

    return round_of


def _alone_of(run: Run) -> Callable[[int], Mapping[str, Measuring]]:
    def sides(in_flight: int) -> Mapping[str, Measuring]:
        url = run.stack.enter_context(run.services.postgres.database())
        config = {"url": url, "in_flight": in_flight}
        command = [*run.placement.on_server(), sys.executable, "-m", "benchmarks.alone.group_commit"]
        found: dict[str, Measuring] = {GROUP_COMMIT: run.stack.enter_context(Session(GROUP_COMMIT, command, config))}
        try:
            program = run.programs.pgbench()
        except MissingError as error:
            run.report.missing[PGBENCH] = str(error)
        else:
            own = run.stack.enter_context(run.services.postgres.database())
            found[PGBENCH] = Pgbench(program, run.placement, own, in_flight)
        return found

    return sides
