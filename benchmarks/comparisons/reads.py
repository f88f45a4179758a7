"""Unary reads by gRPC.

The peers speak what they speak: etcd gRPC, Unleash's flag server and Eureka's server HTTP/1.1 with JSON.
"""

from contextlib import ExitStack

from benchmarks import processes
from benchmarks.bare import GENERAL
from benchmarks.comparisons.sides import EMPTY, EMPTY_GENERAL, ETCD, ETCD_SERIALIZABLE, EUREKA, OURS, UNLEASH
from benchmarks.load import Request, Target
from benchmarks.measure import Table
from benchmarks.placement import Placement
from benchmarks.run import Run
from benchmarks.targets import configsvc, etcd, eureka, unleash

# Calls a second at which latencies are measured: every side can do more, on one core, too.
RATE = 1_000


def tables(run: Run, placement: Placement) -> list[Table]:
    """Each operation with many and with one in flight, and at a fixed rate."""
    with ExitStack() as stack:
        run = run.on(placement, stack)
        url = stack.enter_context(run.services.postgres.database())
        ours = run.server(processes.service("reads", placement, {"DATABASE_URL": url})).address
        configsvc.fill(ours, keys=0, flags=1, instances=configsvc.INSTANCES)
        bare = run.server(processes.bare(placement)).address
        empty = {EMPTY: Target(bare, [Request(configsvc.get_config().method, expect=0)])}
        rate = run.effort.size(RATE, 100)
        general = {EMPTY_GENERAL: Target(bare, [Request(GENERAL, expect=0)])}
        gets = {OURS: configsvc.get_config().grpc(ours), **empty, **general}
        if server := run.peer(ETCD, lambda: processes.etcd(run.programs.etcd(), placement)):
            etcd.fill(server.address, 0)
            gets |= {
                ETCD_SERIALIZABLE: etcd.get(server.address, serializable=True),
                ETCD: etcd.get(server.address),
            }
        found = run.unary("grpc.get", "GetConfig", gets, rate)
        evaluations = {OURS: configsvc.evaluate_flag().grpc(ours), **empty, **unleash_side(run)}
        found += run.unary("grpc.evaluate", "EvaluateFlag", evaluations, rate)
        discoveries = {OURS: configsvc.discover().grpc(ours), **empty, **eureka_side(run)}
        return [*found, *run.unary("grpc.discover", "DiscoverInstances", discoveries, rate)]


def unleash_side(run: Run) -> dict[str, Target]:
    """Unleash's flag server with the one flag, if it can be had."""
    start = lambda: processes.unleash_edge(  # noqa: E731
        run.programs.unleash_edge(), run.placement, unleash.flags(0), unleash.TOKEN
    )
    if (server := run.peer(UNLEASH, start)) is None:
        return {}
    share = unleash.share_on(server.address)
    assert 0.1 < share < 0.4, f"unleash-edge has the flag on for {share:.0%} of the users"
    return {UNLEASH: unleash.evaluate(server.address)}


def eureka_side(run: Run) -> dict[str, Target]:
    """Eureka's server with the one service, if it can be had."""
    if (server := run.peer(EUREKA, lambda: processes.eureka(run.programs.eureka(), run.placement))) is None:
        return {}
    eureka.fill(server.address)
    target = eureka.discover(server.address)
    run.warm_up(target)
    return {EUREKA: target}
