"""The owner of an instance after its replica is killed or its session ends: exactly one, and lists stay complete."""

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tests.engines.postgres import Postgres
from tests.faults.sessions import expire
from tests.replicas.conftest import shown
from tests.replicas.fleet import Replica, eventually, fleet
from tests.replicas.test_replicas import Poll, Watcher

SERVICE = "owned"
# The fair share of fifty for each of two is 25. A fair coin gives one of them fewer than ten once in 170,000 runs.
ORPHANS, LEAST_SHARE = 50, 10
EXPIRED, ROUNDS = 12, 4


@pytest.fixture
def replicas(settings: dict[str, str], tmp_path: Path) -> Iterator[list[Replica]]:
    with fleet(tmp_path, settings, *(f"{name}-{secrets.token_hex(3)}" for name in "abc")) as started:
        yield started


class World:
    """A service with many instances that the first replica owns, and observers that would see an instance disappear."""

    def __init__(self, service: str, replicas: list[Replica], settings: dict[str, str], zookeeper: KazooClient) -> None:
        self.service, self.replicas = service, replicas
        self._settings, self._zookeeper = settings, zookeeper

    def register(self, count: int) -> None:
        self.names = [f"i{number:02}" for number in range(count)]
        for name in self.names:
            self.revision = self.replicas[0].register(self.service, name, ttl=60).revision
        eventually(lambda: self.shown == dict.fromkeys(self.names, self.replicas[0].name), "all show")
        for replica in self.replicas:
            eventually(lambda r=replica: r.discovered(self.service) == self.names, "all are discovered")  # type: ignore[misc]

    @property
    def shown(self) -> dict[str, str]:
        """Each instance's owner in ZooKeeper."""
        return shown(self._zookeeper, self._settings, self.service)

    def recorded(self, replica: Replica) -> dict[str, tuple[str, int]]:
        """Each instance's last owner and generation in the audit trail."""
        return {
            change.key: (change.after.fields["owner"].string_value, int(change.after.fields["generation"].number_value))
            for change in replica.trail(kind="instance", service_name=self.service)
        }

    def is_settled(self, live: list[Replica]) -> bool:
        """Whether each instance has a living owner, the same in ZooKeeper and in the audit trail."""
        owners = {name: owner for name, (owner, _) in self.recorded(live[-1]).items()}
        return self.shown == owners and set(owners.values()) <= {replica.name for replica in live}


class Eyes:
    """Polls and watchers at every replica that stays alive."""

    def __init__(self, service: str, replicas: list[Replica]) -> None:
        self._polls = [Poll(lambda r=replica: tuple(r.discovered(service))) for replica in replicas]
        self._watchers = [Watcher(replica, service) for replica in replicas]

    def close(self, names: list[str]) -> None:
        """Ends the observers; asserts that none has seen an instance disappear or appear."""
        for poll in self._polls:
            answers = poll.end()
            assert len(answers) > 20
            assert set(answers) == {tuple(names)}
        for watcher in self._watchers:
            watcher.end()
            assert {kind for _, kind, _ in watcher.seen} <= {"PUT"}
            assert {name for _, _, name in watcher.seen} <= set(names)


def test_orphans_of_a_killed_replica_are_claimed_once_and_shared(
    replicas: list[Replica], settings: dict[str, str], zookeeper: KazooClient
) -> None:
    first, *survivors = replicas
    world = World("orphans", replicas, settings, zookeeper)
    world.register(ORPHANS)
    eyes = Eyes(world.service, survivors)
    first.kill()
    eventually(lambda: world.is_settled(survivors), "the survivors own and show them all")
    eyes.close(world.names)
    claims = survivors[0].trail(kind="instance", service_name=world.service, after_revision=world.revision)
    assert Counter(change.key for change in claims) == Counter(world.names), "each is claimed once"
    for change in claims:
        before, after = dict(change.before), dict(change.after)
        assert (before.pop("owner"), before.pop("generation")) == (first.name, 1)
        assert after.pop("generation") == 2
        assert after.pop("owner") in {replica.name for replica in survivors}
        assert before == after, "nothing else changed"
    shares = Counter(change.after.fields["owner"].string_value for change in claims)
    assert set(shares) == {replica.name for replica in survivors}
    assert min(shares.values()) >= LEAST_SHARE
    # The survivors are the real owners: heartbeats at any replica count, and the restarted replica owns none.
    first.started()
    for name in world.names:
        first.heartbeat(world.service, name)
    eventually(lambda: first.discovered(world.service) == world.names, "it knows them")
    assert world.is_settled(survivors)
    assert {generation for _, generation in world.recorded(first).values()} == {2}


def test_expired_session_removes_no_instance(
    replicas: list[Replica], settings: dict[str, str], zookeeper: KazooClient
) -> None:
    world = World("expired", replicas, settings, zookeeper)
    world.register(EXPIRED)
    eyes = Eyes(world.service, replicas)
    replicas_path = f"{settings['ZOOKEEPER_BASE_PATH']}-replicas"

    def session_of(replica: Replica) -> int:
        stat = zookeeper.exists(f"{replicas_path}/{replica.name}")
        return int(stat.ephemeralOwner) if stat else 0

    for number in range(ROUNDS):
        # The last round expires all sessions at the same time.
        victims = replicas if number == ROUNDS - 1 else [_owner_of_most(world)]
        old = {session_of(victim) for victim in victims}
        for victim in victims:
            expire(settings["ZOOKEEPER_HOSTS"], f"{replicas_path}/{victim.name}")
        for victim in victims:
            eventually(lambda v=victim, o=old: session_of(v) not in {0, *o}, "it is back, in a new session")  # type: ignore[misc]
        eventually(lambda: world.is_settled(replicas), "each instance is shown again by its owner")
        for name in world.names:
            victims[0].heartbeat(world.service, name)
    trail = replicas[-1].trail(kind="instance", service_name=world.service)
    claims = Counter((change.key, int(change.after.fields["generation"].number_value)) for change in trail)
    assert set(claims.values()) == {1}, "exactly one replica claimed each instance"
    assert len(claims) > EXPIRED, "some were claimed"
    eventually(lambda: [replica.failures() for replica in replicas] == [[], [], []], "all are up")
    eyes.close(world.names)


def test_orphans_are_claimed_although_the_database_was_down_when_their_replica_died(
    private_postgres: Callable[..., Postgres], settings: dict[str, str], zookeeper: KazooClient, tmp_path: Path
) -> None:
    postgres = private_postgres()
    own = {**settings, **postgres.environment()}
    with fleet(tmp_path, own, *(f"{name}-{secrets.token_hex(3)}" for name in "abc")) as replicas:
        first, *survivors = replicas
        world = World("twice", replicas, own, zookeeper)
        world.register(EXPIRED)
        eyes = Eyes(world.service, survivors)
        postgres.kill()
        first.kill()
        for survivor in survivors:
            eventually(lambda s=survivor: "could not be handled" in s.log.read_text(), "it has tried to act on it")  # type: ignore[misc]
        postgres.start()
        eventually(lambda: world.is_settled(survivors), "the survivors own and show them all")
        eyes.close(world.names)


def _owner_of_most(world: World) -> Replica:
    name, _ = Counter(world.shown.values()).most_common(1)[0]
    return next(replica for replica in world.replicas if replica.name == name)
