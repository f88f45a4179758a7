"""`make bench`: runs every comparison, and prints each table when it is ready.

make bench                                       all of them, in about four minutes
make bench ONLY="evaluation server"              some of them
make bench OUT=/tmp/figures                      also as figures.md and figures.json
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Effort, Table
from benchmarks.packages import MissingError, etcd_version
from tests.engines import Envoy, Kafka, Postgres, ServiceError, ServiceSet, Valkey, ZooKeeper

PEERS = ("growthbook", "launchdarkly-server-sdk", "openfeature-flagd-core", "UnleashClient", "kazoo", "redis", "grpcio")


def _evaluation(effort: Effort, services: ServiceSet) -> Sequence[Table]:
    from benchmarks import evaluation

    return evaluation.tables(effort)


def _server(effort: Effort, services: ServiceSet) -> Sequence[Table]:
    from benchmarks import server

    return server.tables(effort, services.postgres)


def _group_commit(effort: Effort, services: ServiceSet) -> Sequence[Table]:
    from benchmarks import group_commit

    return group_commit.tables(effort, services.postgres)


def _registry(effort: Effort, services: ServiceSet) -> Sequence[Table]:
    from benchmarks import registry

    return registry.tables(effort, services.postgres, services.zookeeper)


# Each comparison, with the services that it needs.
COMPARISONS: Mapping[str, tuple[Callable[[Effort, ServiceSet], Sequence[Table]], tuple[str, ...]]] = {
    "evaluation": (_evaluation, ()),
    "server": (_server, ("postgres",)),
    "group_commit": (_group_commit, ("postgres",)),
    "registry": (_registry, ("postgres", "zookeeper")),
}


def main() -> int:
    """Returns 0 if every comparison ran, else 1."""
    options = _options()
    # Warnings and logs of the peers are not results.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    began = time.monotonic()
    # PostgreSQL is durable, like the other sides. All services are private.
    services = ServiceSet(
        postgres=Postgres(durable=True), valkey=Valkey(), kafka=Kafka(), zookeeper=ZooKeeper(), envoy=Envoy()
    )
    tables: list[Table] = []
    failed = False
    try:
        for name in options.only:
            compare, needs = COMPARISONS[name]
            try:
                services.start(needs)
                tables_of_comparison = compare(Effort(options.rounds, options.seconds), services)
            except (MissingError, ServiceError) as error:
                failed = True
                sys.stderr.write(f"{name}: not compared: {error}\n\n")
                continue
            tables += tables_of_comparison
            sys.stdout.write("".join(map(report.text, tables_of_comparison)))
            sys.stdout.flush()
        versions = _versions(services)
    finally:
        services.close()
    if options.out is not None:
        options.out.with_suffix(".md").write_text(report.markdown(tables, versions))
        options.out.with_suffix(".json").write_text(report.as_json(tables, versions))
    versions_line = ", ".join(f"{name} {text}" for name, text in versions.items())
    sys.stdout.write(f"{report.machine()}; {versions_line}; {time.monotonic() - began:.0f} s\n")
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=[*COMPARISONS], help="comparisons to run; all by default")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side; the result is their median")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="length of a round; some comparisons take a part of it"
    )
    parser.add_argument("--out", type=Path, help="also write OUT.md and OUT.json")
    options = parser.parse_args()
    options.only = options.only or list(COMPARISONS)
    return options


def _versions(services: ServiceSet) -> dict[str, str]:
    peers = {name: version(name) for name in PEERS}
    started = {name: services[name].version.rpartition(" ")[2] for name in services.seconds}
    return {**peers, "etcd": etcd_version(), **started}


if __name__ == "__main__":
    sys.exit(main())
