"""An older copy of the database is restored under running replicas, Redis, ZooKeeper and watchers."""

import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from configsvc_client.v1 import config_pb2, flag_pb2
from google.protobuf.struct_pb2 import Value

from tests.engines.postgres import Postgres
from tests.engines.service_set import ServiceSet
from tests.replicas.conftest import own_settings
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually, fleet

KEYS = [f"k{number}" for number in range(20)]


@dataclass
class World:
    """Replicas, their database, and what was read before the restore."""

    postgres: Postgres
    settings: dict[str, str]
    directory: Path
    replicas: list[Replica]
    backup: str = ""
    lost: dict[str, config_pb2.Config] = field(default_factory=dict)
    head: int = 0

    @property
    def url(self) -> str:
        return self.settings["DATABASE_URL"]

    def restore(self) -> None:
        """Restores the backup without running `new-history`."""
        self.postgres.restore(self.url, self.backup)


@pytest.fixture
def world(services: ServiceSet, tmp_path: Path) -> Iterator[World]:
    """The backup has twenty values and a flag, all 1. Later each became 2, and twenty values and an instance were added."""
    with (
        own_settings(services) as settings,
        fleet(tmp_path, settings, *(f"{n}-{secrets.token_hex(3)}" for n in "ab")) as both,
    ):
        world = World(services.postgres, settings, tmp_path, both)
        a, b = both
        for key in KEYS:
            a.put(key, 1)
        set_flag(a, 0)
        a.register("orders", "kept")
        world.backup = services.postgres.back_up(world.url)
        try:
            for key in KEYS:
                eventually(lambda key=key: a.put(key, 2), "writes go on after the backup")  # type: ignore[misc]
                a.put(f"new-{key}", 2)
            set_flag(a, 100)
            b.register("orders", "lost")
            world.head = a.put("last", 2).revision
            for replica in both:
                for key in (*KEYS, *(f"new-{key}" for key in KEYS)):
                    world.lost[key] = replica.get(key, min_revision=world.head).config
            yield world
        finally:
            services.postgres.drop_database(world.backup)


def set_flag(replica: Replica, percentage: int) -> None:
    replica.flags.UpdateFlag(
        flag_pb2.UpdateFlagRequest(
            name="f", environment=ENVIRONMENT, enabled=True, rollout_percentage=percentage, allow_missing=True
        ),
        timeout=15,
    )


def is_on(replica: Replica) -> bool:
    request = flag_pb2.EvaluateFlagRequest(flag_name="f", environment=ENVIRONMENT, user_id="u")
    return replica.flags.EvaluateFlag(request, timeout=15).evaluation.value.bool_value


def values(replica: Replica) -> dict[str, float]:
    """The value of each key at a replica; keys without an answer are left out."""
    keys = [*KEYS, *(f"new-{key}" for key in KEYS)]
    answer = replica.configs.BulkGetConfigs(
        config_pb2.BulkGetConfigsRequest(environment=ENVIRONMENT, keys=keys), timeout=15
    )
    return {config.key: config.value.number_value for config in answer.configs}


def is_as_restored(replica: Replica) -> bool:
    is_old = values(replica) == dict.fromkeys(KEYS, 1)
    return is_old and not is_on(replica) and replica.discovered("orders") == ["kept"]


class Watch:
    """A watch in its own thread: the values that it received, and how it ended."""

    def __init__(self, replica: Replica) -> None:
        self._call = replica.configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=ENVIRONMENT))
        self.synced = threading.Event()
        self.error: grpc.RpcError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.synced.wait(30)

    def _run(self) -> None:
        try:
            for message in self._call:
                if message.HasField("synced"):
                    self.synced.set()
        except grpc.RpcError as error:
            self.error = error

    def ended(self) -> grpc.StatusCode:
        self._thread.join(30)
        assert self.error is not None, "the watch has not ended"
        return self.error.code()

    def end(self) -> None:
        self._call.cancel()
        self._thread.join(10)


def write_with(replica: Replica, config: config_pb2.Config) -> grpc.StatusCode:
    """Overwrites a value with the etag that was read with it."""
    try:
        replica.configs.UpdateConfig(
            config_pb2.UpdateConfigRequest(
                key=config.key, environment=ENVIRONMENT, value=Value(number_value=9), etag=config.etag
            ),
            timeout=15,
        )
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def restored_everywhere(world: World) -> None:
    for replica in world.replicas:
        eventually(lambda r=replica: is_as_restored(r), f"{replica.name} has the state of the backup: {replica.log}")  # type: ignore[misc]


def test_running_replicas_serve_no_lost_write_after_a_restore(world: World) -> None:
    watches = [Watch(replica) for replica in world.replicas]
    world.restore()
    restored_everywhere(world)
    assert [watch.ended() for watch in watches] == [grpc.StatusCode.OUT_OF_RANGE] * 2
    for replica in world.replicas:
        Watch(replica).end()


def test_new_replica_serves_no_lost_write_while_the_database_is_down(world: World) -> None:
    for replica in world.replicas:
        replica.kill()
    world.restore()
    a, b = world.replicas
    a.started()
    eventually(lambda: is_as_restored(a), f"{a.name} has the state of the backup: {a.log}")
    # Now only copies are available.
    world.postgres.drop_database(world.url)
    b.started()
    values_of_lost = {key: copied(b, key) for key in world.lost}
    assert {key: value for key, value in values_of_lost.items() if value == 2} == {}


def copied(replica: Replica, key: str) -> float | None:
    """The value of a key; None if the replica has no answer."""
    try:
        return replica.get(key).config.value.number_value
    except grpc.RpcError:
        return None


@pytest.mark.parametrize("restarted", [False, True])
def test_etag_of_a_lost_write_stays_stale_after_later_writes(world: World, restarted: bool) -> None:
    if restarted:
        for replica in world.replicas:
            replica.kill()
    world.restore()
    for replica in world.replicas:
        if restarted:
            replica.started()
    restored_everywhere(world)
    a, b = world.replicas
    for key in KEYS:
        # The same writes again, so that versions and revisions equal those of the lost writes.
        a.put(key, 3)
        a.put(f"new-{key}", 3)
    assert [write_with(b, config) for config in world.lost.values()] == [grpc.StatusCode.ABORTED] * len(world.lost)


def test_new_revisions_are_higher_than_lost_ones(world: World) -> None:
    world.restore()
    restored_everywhere(world)
    assert world.replicas[0].put("after", 1).revision > world.head
