"""Many keys, and many flags, in one call."""

from contextlib import ExitStack

from benchmarks import processes
from benchmarks.comparisons.sides import ETCD, ETCD_SERIALIZABLE, OURS, UNLEASH
from benchmarks.load import Target
from benchmarks.measure import Table
from benchmarks.placement import Placement
from benchmarks.run import Run
from benchmarks.targets import configsvc, etcd, unleash

# Answers have 50 KB and more: fewer in flight than in the other comparisons.
IN_FLIGHT = 16


def tables(run: Run, placement: Placement) -> list[Table]:
    """BulkGet of 100 keys; batch evaluation of 100 and of 1,000 flags."""
    counts = (100, run.effort.size(1_000, 200))
    with ExitStack() as stack:
        run = run.on(placement, stack)
        url = stack.enter_context(run.services.postgres.database())
        ours = run.server(processes.service("batches", placement, {"DATABASE_URL": url})).address
        configsvc.fill(ours, keys=configsvc.KEYS, flags=max(counts))
        gets = {OURS: configsvc.bulk_get().grpc(ours)}
        if server := run.peer(ETCD, lambda: processes.etcd(run.programs.etcd(), placement)):
            etcd.fill(server.address)
            gets |= {
                ETCD_SERIALIZABLE: etcd.bulk_get(server.address, serializable=True),
                ETCD: etcd.bulk_get(server.address),
            }
        found = _both(run, "bulk", f"BulkGet of {configsvc.KEYS}", gets)
        for count in counts:
            sides = {OURS: configsvc.batch_evaluate(count).grpc(ours), **_unleash(run, count)}
            found += _both(run, f"batch.{count}", f"Evaluate {count:,} flags at once", sides)
        return found


def _both(run: Run, key: str, title: str, sides: dict[str, Target]) -> list[Table]:
    return [run.many(key, title, sides, IN_FLIGHT), run.alone(key, title, sides)]


def _unleash(run: Run, count: int) -> dict[str, Target]:
    """A server that has these flags alone, because it can only evaluate all that it has."""
    server = run.peer(
        UNLEASH,
        lambda: processes.unleash_edge(run.programs.unleash_edge(), run.placement, unleash.flags(count), unleash.TOKEN),
    )
    return {} if server is None else {UNLEASH: unleash.evaluate_all(server.address)}
