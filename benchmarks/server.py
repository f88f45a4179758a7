"""The server next to etcd: reads and writes of one key, and how soon a change reaches all watchers.

h2load is the client of both. This service runs as one worker on PostgreSQL and as another on SQLite; etcd runs as one
node. All flush a write before they acknowledge it. No side is pinned to a core: etcd uses all of them; one worker uses
one for its own code, and PostgreSQL and Envoy use the others.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks import fanout, packages, processes, targets
from benchmarks.load import Load
from benchmarks.measure import Effort, Table, in_turns
from benchmarks.packages import Program
from benchmarks.targets import Target
from tests.engines import Postgres

MANY = 64
# The latency of one caller is stable: less time is enough.
ALONE_PART = 0.5
POSTGRES, SQLITE, REST = "configsvc on PostgreSQL", "configsvc on SQLite", "configsvc, REST through Envoy"
ETCD, ETCD_SERIALIZABLE, ETCD_REST = "etcd", "etcd, serializable", "etcd, its REST gateway"


def tables(effort: Effort, postgres: Postgres) -> Sequence[Table]:
    """Reads, writes and watches."""
    h2load = packages.h2load()
    with _servers(postgres) as (on_postgres, on_sqlite, gateway, etcd):
        grpc = [
            targets.configsvc_grpc(POSTGRES, on_postgres),
            targets.configsvc_grpc(SQLITE, on_sqlite),
            targets.etcd_grpc(ETCD, etcd),
        ]
        rest = [targets.configsvc_rest(REST, gateway, on_postgres), targets.etcd_rest(ETCD_REST, etcd)]
        readers = [*grpc, targets.etcd_grpc(ETCD_SERIALIZABLE, etcd, serializable=True), *rest]
        watched = {
            POSTGRES: (on_postgres, targets.configsvc_watch(), targets.configsvc_write()),
            SQLITE: (on_sqlite, targets.configsvc_watch(), targets.configsvc_write()),
            ETCD: (etcd, targets.etcd_watch(), targets.etcd_write()),
        }
        # The key exists before it is read.
        for address, watch, write in watched.values():
            targets.unary(address, targets.update_method(watch), write)
        return [
            _many("Read of one key", h2load, readers, effort, writes=False),
            _alone("Read of one key", h2load, readers, effort, writes=False),
            _many("Write of one key", h2load, [*grpc, *rest], effort, writes=True),
            _alone("Write of one key", h2load, [*grpc, *rest], effort, writes=True),
            *fanout.tables(effort, watched),
        ]


@contextmanager
def _servers(postgres: Postgres) -> Iterator[tuple[str, str, str, str]]:
    """Addresses: on PostgreSQL, on SQLite, Envoy before the first, etcd."""
    with (
        processes.etcd() as etcd,
        postgres.database() as url,
        processes.service("on-postgres", {"DATABASE_URL": url}) as on_postgres,
        processes.service("on-sqlite", {}) as on_sqlite,
        processes.gateway(on_postgres) as gateway,
    ):
        yield on_postgres, on_sqlite, gateway, etcd


def _many(what: str, h2load: Program, targets: Iterable[Target], effort: Effort, *, writes: bool) -> Table:
    loads = {target.name: _load(h2load, target, MANY, writes=writes) for target in targets}
    sides = {name: lambda load=load: load.run(effort.seconds) for name, load in loads.items()}
    return Table(f"{what}, {MANY} in flight", "requests/s", in_turns(sides, effort.rounds))


def _alone(what: str, h2load: Program, targets: Iterable[Target], effort: Effort, *, writes: bool) -> Table:
    loads = {target.name: _load(h2load, target, 1, writes=writes) for target in targets}
    sides = {name: lambda load=load: 1e6 / load.run(effort.seconds * ALONE_PART) for name, load in loads.items()}
    return Table(f"{what}, one in flight", "µs", in_turns(sides, effort.rounds))


def _load(h2load: Program, target: Target, in_flight: int, *, writes: bool) -> Load:
    if writes:
        return Load(h2load, target.write, in_flight, target.write_check)
    return Load(h2load, target.read, in_flight, target.read_check)
