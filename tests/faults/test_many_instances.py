"""Thousands of instances: a replica that joins reads all of them, and adopts them when their replica is killed."""

import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.faults.sessions import session_of
from tests.replicas.fleet import Replica, eventually, fleet
from tests.replicas.test_replicas import Poll

pytestmark = pytest.mark.timeout(300)

INSTANCES, SERVICES, CALLERS = 3_000, 300, 32
# Longer than the test.
TTL_SECONDS = 3_600
PATIENCE_SECONDS = 120.0
NAMES = {
    f"many{service:03}": [f"i{number:04}" for number in range(service, INSTANCES, SERVICES)]
    for service in range(SERVICES)
}
POLLED = ("many000", "many150", "many299")


@pytest.fixture
def first(settings: dict[str, str], tmp_path: Path) -> Iterator[Replica]:
    """A replica that owns all instances."""
    with fleet(tmp_path, settings, f"a-{secrets.token_hex(3)}") as (replica,):
        with ThreadPoolExecutor(CALLERS) as callers:
            registered = [
                callers.submit(replica.register, service, name, ttl=TTL_SECONDS)
                for service, names in NAMES.items()
                for name in names
            ]
            for call in registered:
                call.result()
        yield replica


def test_instances_of_a_killed_replica_stay_listed_and_are_adopted_once(
    first: Replica, settings: dict[str, str], zookeeper: KazooClient, tmp_path: Path
) -> None:
    base = settings["ZOOKEEPER_BASE_PATH"]

    def all_are_shown_by(replica: Replica) -> bool:
        """Whether each node is one of the replica's session."""
        session = session_of(zookeeper, f"{base}-replicas/{replica.name}")
        paths = [f"{base}/{service}/{name}" for service, names in NAMES.items() for name in names]
        asked = [zookeeper.exists_async(path) for path in paths]
        stats = [answer.get(timeout=30) for answer in asked]
        return session != 0 and all(stat is not None and stat.ephemeralOwner == session for stat in stats)

    def is_complete(replica: Replica) -> bool:
        return {service: replica.discovered(service) for service in NAMES} == NAMES

    eventually(lambda: all_are_shown_by(first), "the first shows them", PATIENCE_SECONDS)
    with fleet(tmp_path, settings, f"b-{secrets.token_hex(3)}") as (second,):
        # It joined among the nodes of the first.
        assert is_complete(second)
        eventually(lambda: second.failures() == [], "all is up")
        polls = {service: Poll(lambda s=service: tuple(second.discovered(s))) for service in POLLED}
        first.kill()
        eventually(lambda: all_are_shown_by(second), "the second shows them", PATIENCE_SECONDS)
        for service, poll in polls.items():
            answers = poll.end()
            assert len(answers) > 20
            assert set(answers) == {tuple(NAMES[service])}
        assert is_complete(second)
        trail = [change for change in second.trail(kind="instance") if change.service_name in NAMES]
        generations = Counter(int(change.after.fields["generation"].number_value) for change in trail)
        assert generations == {1: INSTANCES, 2: INSTANCES}, "each was registered and adopted once"
        assert all(earlier.revision <= later.revision for earlier, later in pairwise(trail))
        # The nodes of its killed process still exist when the same replica starts again.
        second.kill()
        second.started()
        eventually(second.is_ready, "it is ready")
        eventually(lambda: all_are_shown_by(second), "the second shows them again", PATIENCE_SECONDS)
        assert is_complete(second)
        eventually(lambda: second.failures() == [], "all is up")
