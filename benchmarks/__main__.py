"""`make bench`: runs every comparison, and prints each table when it is ready.

make bench                                       all of them
make bench ONLY="reads writes"                   some of them
make bench OUT=/tmp/figures                      also as figures.md, .json, .svg and .png
"""

import argparse
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from benchmarks import report
from benchmarks.measure import Effort, Report, Table
from benchmarks.peers import MissingError, Programs
from benchmarks.placement import FREE, PINNED, Placement, placements
from benchmarks.run import Run
from tests.engines import Envoy, Kafka, Postgres, ServiceError, ServiceSet, Valkey, ZooKeeper

Comparison = Callable[[Run, Placement], Sequence[Table]]

BOTH, ANY, ONE = (PINNED, FREE.name), (FREE.name,), (PINNED,)
# Each comparison, with the services that it needs and the placements at which it runs.
COMPARISONS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "reads": (("postgres",), BOTH),
    "rest": (("postgres", "envoy"), BOTH),
    "batches": (("postgres",), ONE),
    "writes": (("postgres", "envoy"), BOTH),
    "watches": (("postgres",), BOTH),
    "registry": (("postgres", "zookeeper"), ONE),
    "resources": (("postgres",), ANY),
    "sizes": (("postgres",), ANY),
    "in_process": ((), ANY),
    "group_commit": (("postgres",), ANY),
}
# Python packages whose versions matter.
PACKAGES = (
    *("grpcio", "pygrpc-native", "kazoo", "psycopg", "uvloop"),
    *("growthbook", "launchdarkly-server-sdk", "openfeature-flagd-core", "UnleashClient"),
)


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
    effort = Effort(options.rounds, options.seconds, options.small)
    found = Report()
    run = Run(effort, Programs(may_build=not options.small), services, found)
    try:
        for name in options.only:
            _compare(run, name)
        found.versions = _versions(run)
    finally:
        services.close()
    if options.out is not None:
        _write(found, options.out)
    sys.stdout.write(report.goals_text(found))
    for name, why in found.missing.items():
        sys.stderr.write(f"{name}: not compared: {why}\n")
    versions_line = ", ".join(f"{name} {text}" for name, text in found.versions.items())
    sys.stdout.write(f"{report.machine()}; {versions_line}; {time.monotonic() - began:.0f} s\n")
    return int(any(name in found.missing for name in options.only))


def _compare(run: Run, name: str) -> None:
    """Runs one comparison at each of its placements."""
    needs, where = COMPARISONS[name]
    at = [one for one in placements() if one.name in where] or [FREE]
    for placement in at[:1] if run.effort.small else at:
        began = time.monotonic()
        try:
            run.services.start(needs)
            # Peers are imported here, because one that is not installed must not stop the others.
            compare = cast(Comparison, import_module(f"benchmarks.comparisons.{name}").tables)
            tables = compare(run, placement)
        except (MissingError, ServiceError) as error:
            run.report.missing[name] = f"{placement.name}: {error}"
            continue
        except Exception as error:
            # Whatever went wrong here, the other comparisons have their figures.
            traceback.print_exc()
            run.report.missing[name] = f"{placement.name}: {error!r}"
            continue
        finally:
            # For whoever waits; the figures go to the other stream.
            sys.stderr.write(f"{name}, {placement.name}: {time.monotonic() - began:.0f} s\n")
        run.report.tables += tables
        sys.stdout.write("".join(map(report.text, tables)))
        sys.stdout.flush()


def _write(found: Report, out: Path) -> None:
    """The report in all its forms."""
    chart = ""
    try:
        from benchmarks import chart as charts
    except ModuleNotFoundError as error:
        found.missing["chart"] = str(error)
    else:
        if charts.draw(found.tables, out.with_suffix(".svg"), out.with_suffix(".png")):
            chart = out.with_suffix(".svg").name
    out.with_suffix(".md").write_text(report.markdown(found, chart))
    out.with_suffix(".json").write_text(report.as_json(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=[*COMPARISONS], help="comparisons to run; all by default")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side; the result is their median")
    parser.add_argument(
        "--seconds", type=float, default=0.6, help="length of a round; some comparisons take a part of it"
    )
    parser.add_argument(
        "--small", action="store_true", help="small sizes at one placement, with the peers that are built already"
    )
    parser.add_argument("--out", type=Path, help="also write OUT.md, OUT.json, OUT.svg and OUT.png")
    options = parser.parse_args()
    options.only = options.only or list(COMPARISONS)
    return options


def _versions(run: Run) -> dict[str, str]:
    found = {"engine": os.environ.get("GRPC_ENGINE", "native")}
    for name, find in (("etcd", run.programs.etcd), ("unleash-edge", run.programs.unleash_edge)):
        try:
            found[name] = find().version
        except MissingError:
            continue
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {name: run.services[name].version.rpartition(" ")[2] for name in run.services.seconds}


if __name__ == "__main__":
    sys.exit(main())
