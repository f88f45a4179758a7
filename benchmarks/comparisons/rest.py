"""The same reads by REST: this service through Envoy, on a socket as behind `configsvc up`."""

from contextlib import ExitStack

from benchmarks import processes
from benchmarks.comparisons.reads import eureka_side, unleash_side
from benchmarks.comparisons.sides import EMPTY, ETCD, ETCD_SERIALIZABLE, OURS
from benchmarks.measure import Table
from benchmarks.placement import Placement
from benchmarks.run import Run
from benchmarks.targets import configsvc, etcd

RATE = 500


def tables(run: Run, placement: Placement) -> list[Table]:
    """Each operation with many and with one in flight, and at a fixed rate."""
    with ExitStack() as stack:
        run = run.on(placement, stack)
        url = stack.enter_context(run.services.postgres.database())
        worker = run.server(processes.service("rest", placement, {"DATABASE_URL": url}))
        configsvc.fill(worker.address, keys=0, flags=1, instances=configsvc.INSTANCES)
        ours = run.server(processes.gateway(placement, worker.socket)).address
        bare = run.server(processes.bare(placement))
        empty = run.server(processes.gateway(placement, bare.socket)).address
        rate = run.effort.size(RATE, 50)
        get, evaluate, discover = configsvc.get_config(), configsvc.evaluate_flag(), configsvc.discover()
        gets = {OURS: get.by_rest(ours), EMPTY: get.by_rest(empty)}
        if server := run.peer(ETCD, lambda: processes.etcd(run.programs.etcd(), placement)):
            etcd.fill(server.address, 0)
            gets |= {
                ETCD: etcd.rest_get(server.address),
                ETCD_SERIALIZABLE: etcd.rest_get(server.address, serializable=True),
            }
        evaluations = {OURS: evaluate.by_rest(ours), EMPTY: evaluate.by_rest(empty), **unleash_side(run)}
        discoveries = {OURS: discover.by_rest(ours), EMPTY: discover.by_rest(empty), **eureka_side(run)}
        return [
            *run.unary("rest.get", "GetConfig by REST", gets, rate),
            *run.unary("rest.evaluate", "EvaluateFlag by REST", evaluations, rate),
            *run.unary("rest.discover", "DiscoverInstances by REST", discoveries, rate),
        ]
