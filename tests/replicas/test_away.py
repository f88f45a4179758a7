"""Each backend is killed, paused, flushed and restarted under running replicas, on services private to this module."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from configsvc_client.v1 import config_pb2, flag_pb2, registry_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.engines.kafka import Kafka
from tests.engines.postgres import Postgres
from tests.engines.valkey import Valkey
from tests.engines.zookeeper import ZooKeeper
from tests.replicas.conftest import events
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually, fleet
from tests.replicas.test_replicas import Watcher


@dataclass(frozen=True)
class World:
    """Services that may be killed, and the replicas on them."""

    postgres: Postgres
    valkey: Valkey
    kafka: Kafka
    zookeeper: ZooKeeper
    settings: dict[str, str]
    directory: Path
    replicas: list[Replica]


@pytest.fixture(scope="module")
def world(
    private_postgres: Callable[..., Postgres],
    private_valkey: Callable[[], Valkey],
    private_kafka: Callable[[], Kafka],
    private_zookeeper: Callable[[], ZooKeeper],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    postgres, valkey, kafka, zookeeper = private_postgres(), private_valkey(), private_kafka(), private_zookeeper()
    settings: dict[str, str] = {"LEASE_DEFAULT_TTL_SECONDS": "5"}
    for service in (postgres, valkey, kafka, zookeeper):
        settings |= service.environment()
    directory = tmp_path_factory.mktemp("away")
    with fleet(directory, settings, "a", "b") as replicas:
        yield World(postgres, valkey, kafka, zookeeper, settings, directory, replicas)


@pytest.fixture(autouse=True)
def all_is_well(world: World) -> Iterator[None]:
    """Restores all services and replicas before each test."""
    yield
    for service in (world.postgres, world.valkey, world.kafka, world.zookeeper):
        if not service.running:
            service.start()
    for replica in world.replicas:
        eventually(lambda r=replica: r.failures() == [], f"{replica.name} is up: {replica.log}")  # type: ignore[misc]


def is_stale(call: grpc.Call) -> bool:
    return dict(call.trailing_metadata()).get("x-stale") == "true"


def read(replica: Replica, key: str) -> tuple[object, bool]:
    """Reads a value, and whether the answer is marked stale."""
    response, call = replica.configs.GetConfig.with_call(
        config_pb2.GetConfigRequest(key=key, environment=ENVIRONMENT), timeout=15
    )
    return response.config.value.number_value, is_stale(call)


def versions(replica: Replica, key: str) -> list[int]:
    """The version of a key; empty if it is missing."""
    answer = replica.configs.BulkGetConfigs(
        config_pb2.BulkGetConfigsRequest(environment=ENVIRONMENT, keys=[key]), timeout=15
    )
    return [config.version for config in answer.configs]


@dataclass
class Writes:
    """The outcomes of many writes of different values to different keys."""

    acknowledged: dict[str, int]
    unknown: set[str]
    refusals: list[grpc.RpcError]


def write_until(replicas: list[Replica], stop: threading.Event) -> Writes:
    """Runs eight writers, each key once, until `stop` is set."""
    writes = Writes({}, set(), [])
    prefix = secrets.token_hex(3)

    def work(writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = f"{prefix}-{writer}-{number}"
            try:
                writes.acknowledged[key] = replicas[writer % len(replicas)].put(key, number).revision
            except grpc.RpcError as error:
                writes.unknown.add(key)
                writes.refusals.append(error)
                time.sleep(0.05)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    return writes


def _writes(replica: Replica) -> bool:
    try:
        replica.put("again", 2)
    except grpc.RpcError:
        return False
    return True


def test_acknowledged_writes_survive_a_restart_of_postgres(world: World) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(write_until, world.replicas, stop)
        for _ in range(3):
            enough = world.replicas[0].put("again", 0).revision + 20
            eventually(lambda e=enough: world.replicas[0].put("again", 1).revision > e, "writes go on")  # type: ignore[misc]
            world.postgres.kill()
            eventually(lambda: not _writes(world.replicas[0]), "writes are refused")
            world.postgres.start()
        eventually(lambda: _writes(world.replicas[0]), "writes go on")
        stop.set()
        writes = running.result()
    assert len(writes.acknowledged) > 20
    assert writes.refusals, "the database was down, but no write was refused"
    for error in writes.refusals:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    # Each acknowledged write exists once, at its revision.
    for key, revision in writes.acknowledged.items():
        config = world.replicas[1].get(key, min_revision=revision).config
        assert (config.version, config.revision) == (1, revision)
    # A refused write exists as a whole or not at all.
    for key in writes.unknown:
        assert versions(world.replicas[1], key) in ([], [1])


def test_without_postgres_reads_are_marked_stale_and_writes_are_refused(world: World) -> None:
    one, two = world.replicas
    revision = one.put("kept", 7).revision
    assert two.get("kept", min_revision=revision).config.value.number_value == 7
    world.postgres.kill()
    eventually(lambda: read(one, "kept") == (7, True), "the value is served and marked stale")
    eventually(lambda: read(two, "kept") == (7, True), "the value is served and marked stale")
    with pytest.raises(grpc.RpcError) as refused:
        one.put("kept", 8)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert one.is_ready(), "a replica with a complete view stays ready"
    detail = one.component("storage").detail
    assert "down since" in detail
    assert "marked stale" in detail
    world.postgres.start()
    eventually(lambda: read(one, "kept") == (7, False), "the value is fresh again")


def test_hung_postgres_delays_calls_by_a_bounded_time(world: World) -> None:
    one, _ = world.replicas
    one.put("hung", 1)
    assert read(one, "hung")[0] == 1
    world.postgres.pause()
    try:
        with pytest.raises(grpc.RpcError) as refused:
            one.put("hung", 2, timeout=30)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert read(one, "hung")[0] == 1
    finally:
        world.postgres.resume()
    eventually(lambda: one.put("hung", 3), "writes go on")


def test_replica_stops_while_postgres_hangs(world: World) -> None:
    with fleet_of_one(world, "stopping") as replica:
        replica.started()
        replica.register("stopping", "one", ttl=3600)
        replica.put("stopping", 1)
        world.postgres.pause()
        try:
            with ThreadPoolExecutor(8) as pool:
                for number in range(40):
                    pool.submit(replica.put, f"stopping-{number}", number, 30)
                eventually(lambda: not _writes(replica), "no write is in flight")
                replica.stop()
        finally:
            world.postgres.resume()
    # Its instances are adopted.
    one, _ = world.replicas
    eventually(lambda: one.discovered("stopping") == ["one"], "the other replicas discover it")
    eventually(lambda: one.put("stopping", 2), "writes go on")


def test_new_replica_answers_from_redis_while_postgres_and_zookeeper_are_down(world: World) -> None:
    one, _ = world.replicas
    one.put("left", 5)
    assert one.get("left").config.value.number_value == 5
    one.flags.CreateFlag(
        flag_pb2.CreateFlagRequest(
            name="left", environment=ENVIRONMENT, enabled=True, rollout_percentage=0, targeted_users=["ann"]
        ),
        timeout=15,
    )
    evaluate = flag_pb2.EvaluateFlagRequest(flag_name="left", environment=ENVIRONMENT, user_id="ann")
    assert one.flags.EvaluateFlag(evaluate, timeout=15).evaluation.enabled
    one.register("left", "one", ttl=3600)
    assert one.discovered("left") == ["one"]
    world.postgres.kill()
    world.zookeeper.kill()
    with fleet_of_one(world, "fresh") as fresh:
        fresh.started()
        assert read(fresh, "left") == (5, True)
        answer, call = fresh.flags.EvaluateFlag.with_call(evaluate, timeout=15)
        assert answer.evaluation.enabled
        assert is_stale(call)
        listing, call = fresh.registry.DiscoverInstances.with_call(
            registry_pb2.DiscoverInstancesRequest(service_name="left"), timeout=15
        )
        assert [instance.instance_id for instance in listing.instances] == ["one"]
        assert listing.stale
        assert is_stale(call)
        assert not fresh.is_ready(), "its view is incomplete"
        with pytest.raises(grpc.RpcError) as missing:
            fresh.get("never-left")
        assert missing.value.code() == grpc.StatusCode.UNAVAILABLE, "a cache miss is never answered as NOT_FOUND"
        world.postgres.start()
        world.zookeeper.start()
        eventually(fresh.is_ready, "it has a complete view after the backends are back")
        eventually(lambda: read(fresh, "left") == (5, False), "fresh")
        fresh.put("left", 6)


def test_copy_is_not_served_for_a_revision_that_it_may_not_contain(world: World) -> None:
    one, _ = world.replicas
    one.put("older", 5)
    one.flags.CreateFlag(flag_pb2.CreateFlagRequest(name="older", environment=ENVIRONMENT, enabled=True), timeout=15)
    evaluate = flag_pb2.EvaluateFlagRequest(flag_name="older", environment=ENVIRONMENT, user_id="ann")
    one.flags.EvaluateFlag(evaluate, timeout=15)
    with fleet_of_one(world, "knows-little") as other:
        other.started()
        newer = one.put("newer", 6).revision
        eventually(lambda: other.get("newer", min_revision=newer), "it has applied the log")
        world.postgres.kill()
        # It knows that the log is ahead of the copies, but not whether the new changes concern them.
        eventually(lambda: read(other, "older") == (5, True), "the copy is served and marked stale")
        evaluated = other.flags.EvaluateFlag(evaluate, timeout=15)
        assert evaluated.revision < newer
        evaluate.min_revision = newer
        for ask in (
            lambda: other.get("older", min_revision=newer),
            lambda: other.flags.EvaluateFlag(evaluate, timeout=15),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                ask()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert other.get("newer", min_revision=newer).config.value.number_value == 6, "it knows this revision"
        world.postgres.start()
        eventually(lambda: other.get("older", min_revision=newer), "later revisions are served when it can read them")


def fleet_of_one(world: World, name: str) -> "_One":
    return _One(world, name)


class _One:
    """A replica that need not become ready."""

    def __init__(self, world: World, name: str) -> None:
        from tests.engines.ports import Port

        self._port = Port()
        self._replica = Replica(name, world.directory, world.settings, self._port.number)

    def __enter__(self) -> Replica:
        return self._replica

    def __exit__(self, *_: object) -> None:
        self._replica.close()
        self._port.release()


def test_failures_of_redis_do_not_affect_callers(world: World) -> None:
    one, two = world.replicas
    revision = one.put("redis", 1).revision
    for harm, mend in (
        (world.valkey.kill, world.valkey.start),
        (_flush(world.valkey), lambda: None),
        (world.valkey.pause, world.valkey.resume),
        (_fill(world.valkey), _empty(world.valkey)),
    ):
        harm()
        for number in range(20):
            revision = one.put("redis", number).revision
            assert two.get("redis", min_revision=revision).config.value.number_value == number
        assert one.is_ready()
        mend()


def _flush(valkey: Valkey) -> Callable[[], None]:
    def run() -> None:
        with valkey.client() as client:
            client.flushall()

    return run


def _fill(valkey: Valkey) -> Callable[[], None]:
    def run() -> None:
        with valkey.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1mb")

    return run


def _empty(valkey: Valkey) -> Callable[[], None]:
    def run() -> None:
        with valkey.client() as client:
            client.config_set("maxmemory", "0")

    return run


@pytest.mark.parametrize("harm", ["kill", "pause"])
def test_writes_continue_without_kafka_and_are_published_later(world: World, harm: str) -> None:
    one, two = world.replicas
    before = one.put("kafka", -1).revision
    getattr(world.kafka, harm)()
    last = before
    for number in range(30):
        last = one.put(f"kafka-{number % 5}", number).revision
        assert two.get(f"kafka-{number % 5}", min_revision=last).config.value.number_value == number
    assert one.is_ready()
    eventually(lambda: "down since" in one.component("bus").detail, "health reports it")
    eventually(lambda: "changes waiting" in one.component("bus").detail, "and what waits")
    world.kafka.start() if harm == "kill" else world.kafka.resume()
    settings = {**world.settings, "KAFKA_TOPIC_CONFIG_UPDATES": "config-updates"}
    eventually(lambda: one.component("bus").state == "up", "it is up again")
    published = {event["revision"] for event in events(settings, last)}
    assert set(range(before, last + 1)) <= published


@pytest.mark.parametrize("harm", ["kill", "pause"])
def test_without_zookeeper_lists_stay_complete_and_no_lease_ends(world: World, harm: str) -> None:
    one, two = world.replicas
    service = f"zk-{harm}"
    one.register(service, "one", ttl=5)
    two.register(service, "two", ttl=5)
    both = ["one", "two"]
    for replica in world.replicas:
        eventually(lambda r=replica: r.discovered(service) == both, "both know it")  # type: ignore[misc]
    watcher = Watcher(one, service)
    getattr(world.zookeeper, harm)()
    eventually(lambda: one.component("registry").state == "down", "health reports it")
    # Longer than the sessions and the leases.
    end = time.monotonic() + 7
    while time.monotonic() < end:
        assert one.discovered(service) == both
        assert two.discovered(service) == both
        time.sleep(0.1)
    assert one.discover(service).stale
    one.put("while-zookeeper-is-away", 1)
    world.zookeeper.start() if harm == "kill" else world.zookeeper.resume()
    eventually(lambda: not one.discover(service).stale, "ZooKeeper has the nodes again")
    assert one.discovered(service) == both
    for _ in range(10):
        for name in both:
            one.heartbeat(service, name)
        time.sleep(0.2)
    assert two.discovered(service) == both
    assert {kind for _, kind, _ in watcher.seen} <= {"PUT"}
    watcher.end()
    for name in both:
        one.registry.DeregisterInstance(
            registry_pb2.DeregisterInstanceRequest(service_name=service, instance_id=name), timeout=15
        )
