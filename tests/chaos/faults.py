"""The faults of a run, and how each is repaired."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.foreign import ForeignNodes, write_oversized
from tests.engines.postgres import Postgres
from tests.engines.service import Service
from tests.faults.slow_line import SlowLine
from tests.replicas.fleet import Replica

# The rate of a slow broker: some hundred small events per second.
SLOW_BYTES_PER_SECOND = 100_000


@dataclass(frozen=True)
class Cluster:
    """Replicas on engines that can be killed. Kafka is reached through `broker_line`."""

    replicas: list[Replica]
    services: Mapping[str, Service]
    settings: Mapping[str, str]
    postgres: Postgres
    broker_line: SlowLine


@dataclass(frozen=True)
class Fault:
    """Something that fails for some seconds, and how it is repaired."""

    name: str
    inject: Callable[[], None]
    repair: Callable[[], None]
    longest_seconds: float


def faults_of(cluster: Cluster) -> list[Fault]:
    """All faults of a run. The first word of a name is the target: two concurrent faults have different targets."""
    settings = cluster.settings
    nodes = ForeignNodes(settings["ZOOKEEPER_HOSTS"], settings.get("ZOOKEEPER_BASE_PATH", "/services"))

    def limit_line(bytes_per_second: int) -> None:
        cluster.broker_line.bytes_per_second = bytes_per_second

    faults = [
        Fault("kafka slow", lambda: limit_line(SLOW_BYTES_PER_SECOND), lambda: limit_line(0), 6.0),
        Fault("kafka oversized events", lambda: write_oversized(cluster.replicas), lambda: None, 2.0),
        Fault("zookeeper foreign nodes", nodes.show, nodes.remove, 3.0),
    ]
    for name, service in cluster.services.items():
        faults.append(Fault(f"{name} killed", service.kill, service.start, 4.0))
        faults.append(Fault(f"{name} hung", service.pause, service.resume, 4.0))
    for replica in cluster.replicas:
        faults.append(Fault(f"{replica.name} killed", replica.kill, replica.start, 2.0))
        faults.append(Fault(f"{replica.name} paused", replica.pause, replica.resume, 6.0))
        faults.append(Fault(f"{replica.name} stopped", lambda r=replica: _stop(r), replica.start, 1.0))  # type: ignore[misc]
    return faults


def have_different_targets(first: Fault, second: Fault) -> bool:
    """Whether two faults have different targets."""
    return first.name.split()[0] != second.name.split()[0]


def _stop(replica: Replica) -> None:
    replica.stop()
