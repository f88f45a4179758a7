"""Guarantees of several replicas, in normal operation and when one of them is killed, stopped or paused."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2, flag_pb2, registry_pb2
from kazoo.client import KazooClient

from tests.replicas.conftest import events, shown
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually


class Watcher:
    """One watch in its own thread: records every (revision, type, key) after `synced`, in the order of arrival."""

    def __init__(self, replica: Replica, service: str = "") -> None:
        self._call: Any
        if service:
            self._call = replica.registry.WatchService(registry_pb2.WatchServiceRequest(service_name=service))
        else:
            self._call = replica.configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=ENVIRONMENT))
        self.seen: list[tuple[int, str, str]] = []
        self.synced = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.synced.wait(30)

    def _run(self) -> None:
        try:
            for message in self._call:
                if message.HasField("synced"):
                    self.synced.set()
                if message.HasField("change"):
                    change = message.change
                    resource = change.config.key if hasattr(change, "config") else change.instance.instance_id
                    self.seen.append((change.revision, change.type, resource))
        except grpc.RpcError:
            return

    def until(self, revision: int) -> list[tuple[int, str, str]]:
        eventually(lambda: self.seen and self.seen[-1][0] >= revision, f"a watcher sees {revision}")
        return self.seen

    def end(self) -> None:
        self._call.cancel()
        self._thread.join(10)


def test_read_with_min_revision_sees_a_write_at_every_replica(replicas: list[Replica]) -> None:
    for number in range(30):
        writer, *others = replicas[number % 3 :] + replicas[: number % 3]
        revision = writer.put("shared", number).revision
        for other in others:
            answer = other.get("shared", min_revision=revision)
            assert answer.config.value.number_value == number
            assert answer.revision >= revision


def test_other_replicas_see_a_write_soon_without_min_revision(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.put("soon", "before")
    replicas[0].put("soon", "after")
    for replica in replicas:
        eventually(lambda r=replica: r.value("soon") == "after", f"{replica.name} has it")  # type: ignore[misc]


def test_watchers_on_all_replicas_see_the_same_changes_in_the_same_order(replicas: list[Replica]) -> None:
    watchers = [Watcher(replica) for replica in replicas]

    def write(number: int) -> int:
        return replicas[number % 3].put(f"order-{number % 7}", number).revision

    with ThreadPoolExecutor(12) as pool:
        last = max(pool.map(write, range(150)))
    streams = [watcher.until(last) for watcher in watchers]
    assert len(streams[0]) == 150
    assert streams[0] == streams[1] == streams[2]
    assert [revision for revision, _, _ in streams[0]] == sorted({revision for revision, _, _ in streams[0]})
    for watcher in watchers:
        watcher.end()


def test_flag_change_reaches_evaluations_at_other_replicas(replicas: list[Replica]) -> None:
    one, two, three = replicas
    flag = flag_pb2.Flag(name="beta", environment=ENVIRONMENT, enabled=True, targeted_users=["ann"])
    one.flags.CreateFlag(
        flag_pb2.CreateFlagRequest(
            name=flag.name, environment=ENVIRONMENT, enabled=True, targeted_users=flag.targeted_users
        ),
        timeout=15,
    )
    for replica in (two, three):
        eventually(lambda r=replica: _is_on(r, "ann"), f"{replica.name} evaluates it")  # type: ignore[misc]


def test_sticky_assignment_holds_at_every_replica(replicas: list[Replica]) -> None:
    one, two, three = replicas
    request = {"name": "sticky", "environment": ENVIRONMENT, "enabled": True, "sticky": True}
    one.flags.CreateFlag(flag_pb2.CreateFlagRequest(rollout_percentage=50, **request), timeout=15)  # type: ignore[arg-type]
    users = [f"u{number}" for number in range(40)]
    assigned = [_evaluated(one, user) for user in users]
    assert {True, False} == set(assigned)
    answer = one.flags.UpdateFlag(flag_pb2.UpdateFlagRequest(rollout_percentage=0, **request), timeout=15)  # type: ignore[arg-type]
    for replica in (one, two, three):
        eventually(
            lambda r=replica: r.flags.GetFlag(  # type: ignore[misc]
                flag_pb2.GetFlagRequest(name="sticky", environment=ENVIRONMENT, min_revision=answer.revision),
                timeout=15,
            ),
            "it knows",
        )
        assert [_evaluated(replica, user) for user in users] == assigned, (
            "after the percentage is lowered, no user loses the variant"
        )
        assert not _evaluated(replica, "new"), "users without an assignment get none"
    off = one.flags.UpdateFlag(
        flag_pb2.UpdateFlagRequest(name="sticky", environment=ENVIRONMENT, enabled=False, sticky=True), timeout=15
    )
    two.flags.GetFlag(
        flag_pb2.GetFlagRequest(name="sticky", environment=ENVIRONMENT, min_revision=off.revision), timeout=15
    )
    assert not any(_evaluated(two, user) for user in users), "a disabled flag is off for everyone"


def _evaluated(replica: Replica, user: str) -> bool:
    return replica.flags.EvaluateFlag(
        flag_pb2.EvaluateFlagRequest(flag_name="sticky", environment=ENVIRONMENT, user_id=user), timeout=15
    ).evaluation.enabled


def _is_on(replica: Replica, user: str) -> bool:
    return replica.flags.EvaluateFlag(
        flag_pb2.EvaluateFlagRequest(flag_name="beta", environment=ENVIRONMENT, user_id=user), timeout=15
    ).evaluation.enabled


def test_every_change_reaches_kafka_although_replicas_are_killed(
    replicas: list[Replica], settings: dict[str, str]
) -> None:
    before = replicas[0].put("kafka", -1).revision
    last = before
    for victim in replicas:
        writer = next(replica for replica in replicas if replica is not victim)
        for number in range(10):
            last = writer.put(f"kafka-{number % 3}", number).revision
        victim.kill()
        for number in range(10):
            last = writer.put(f"kafka-{number % 3}", number).revision
        victim.started()
    published = events(settings, last)
    assert set(range(before, last + 1)) <= {event["revision"] for event in published}
    first_seen: dict[str, list[int]] = defaultdict(list)
    for event in published:
        if event["revision"] not in first_seen[event["key"]]:
            first_seen[event["key"]].append(event["revision"])
    for key, revisions in first_seen.items():
        assert revisions == sorted(revisions), f"the events of '{key}' are out of order"


@pytest.fixture
def owned_by_first(
    replicas: list[Replica], settings: dict[str, str], zookeeper: KazooClient
) -> Iterator[tuple[list[Replica], str]]:
    """A service with one instance that the first replica owns and shows in ZooKeeper."""
    service = "owned"
    replicas[0].register(service, "one")
    eventually(lambda: shown(zookeeper, settings, service) == {"one": replicas[0].name}, "it shows")
    eventually(lambda: all(r.discovered(service) == ["one"] for r in replicas), "all discover it")
    yield replicas, service
    survivor = next(replica for replica in replicas if replica.runs)
    survivor.registry.DeregisterInstance(
        registry_pb2.DeregisterInstanceRequest(service_name=service, instance_id="one"), timeout=15
    )


class Poll:
    """Polls in a thread, and keeps every answer."""

    def __init__(self, ask: object) -> None:
        self._ask = ask
        self._stop = threading.Event()
        self.answers: list[object] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.answers.append(self._ask())  # type: ignore[operator]
            time.sleep(0.005)

    def end(self) -> list[object]:
        self._stop.set()
        self._thread.join(10)
        return self.answers


def test_instance_stays_listed_when_its_owner_is_killed(
    owned_by_first: tuple[list[Replica], str], settings: dict[str, str], zookeeper: KazooClient
) -> None:
    (first, second, third), service = owned_by_first
    watcher = Watcher(second, service)
    poll = Poll(lambda: tuple(third.discovered(service)))
    first.kill()
    eventually(
        lambda: shown(zookeeper, settings, service).get("one") in (second.name, third.name),
        "a surviving replica owns it",
    )
    assert set(poll.end()) == {("one",)}
    assert {kind for _, kind, _ in watcher.seen} <= {"PUT"}
    watcher.end()


def test_stopping_replica_hands_over_its_instances_before_its_session_ends(
    owned_by_first: tuple[list[Replica], str], settings: dict[str, str], zookeeper: KazooClient
) -> None:
    (first, second, third), service = owned_by_first
    watcher = Watcher(second, service)
    in_zookeeper = Poll(lambda: tuple(zookeeper.get_children(f"{settings['ZOOKEEPER_BASE_PATH']}/{service}")))
    discovered = Poll(lambda: tuple(third.discovered(service)))
    assert first.stop() == 0
    assert shown(zookeeper, settings, service)["one"] in (second.name, third.name)
    # Direct readers of ZooKeeper, such as a JVM service on Curator, don't see it disappear either.
    assert set(in_zookeeper.end()) == {("one",)}
    assert set(discovered.end()) == {("one",)}
    assert {kind for _, kind, _ in watcher.seen} <= {"PUT"}
    watcher.end()


def test_replica_paused_past_its_session_does_not_change_instances_that_it_lost(
    owned_by_first: tuple[list[Replica], str], settings: dict[str, str], zookeeper: KazooClient
) -> None:
    (first, second, third), service = owned_by_first
    first.pause()
    eventually(
        lambda: shown(zookeeper, settings, service).get("one") in (second.name, third.name),
        "a surviving replica owns it",
    )
    watcher = Watcher(second, service)
    owner = shown(zookeeper, settings, service)["one"]
    first.resume()
    # It is back when its own node is shown again; by then it has checked its former instances.
    eventually(
        lambda: first.name in zookeeper.get_children(f"{settings['ZOOKEEPER_BASE_PATH']}-replicas"), "it is back"
    )
    revision = first.put("after-sleep", 1).revision
    assert first.discovered(service) == ["one"]
    eventually(lambda: second.get("after-sleep", min_revision=revision), "the second replica owns it")
    assert shown(zookeeper, settings, service) == {"one": owner}
    assert {kind for _, kind, _ in watcher.seen} <= {"PUT"}
    watcher.end()


def test_heartbeats_at_a_replica_that_is_not_the_owner_renew_the_lease(replicas: list[Replica]) -> None:
    owner, other, _ = replicas
    owner.register("beating", "one", ttl=5)
    owner.register("silent", "one", ttl=5)
    eventually(lambda: other.discovered("beating") == ["one"], "the other replica lists it")
    # When the silent instance expires, the other would have expired too without its heartbeats.
    while owner.discovered("silent"):
        other.heartbeat("beating", "one")
        time.sleep(0.2)
    assert owner.discovered("beating") == ["one"]
    eventually(lambda: owner.discovered("beating") == [], "it expires without heartbeats")


def test_registering_again_at_another_replica_changes_nothing(replicas: list[Replica]) -> None:
    one, two, _ = replicas
    one.register("again", "one")
    eventually(lambda: two.discovered("again") == ["one"], "the other replica lists it")
    watcher = Watcher(one, "again")
    for replica in replicas:
        replica.register("again", "one")
    last = replicas[0].register("again", "two")
    assert [key for _, _, key in watcher.until(last.revision)] == ["two"]
    watcher.end()


def test_instance_of_a_jvm_service_is_discovered(
    replicas: list[Replica], settings: dict[str, str], zookeeper: KazooClient
) -> None:
    instance = {
        "name": "jvm", "id": "j1", "address": "10.0.0.7", "port": 8080, "sslPort": None,
        "payload": {"@class": "org.example.Payload", "metadata": {"zone": "eu"}},
        "registrationTimeUTC": 1_700_000_000_000, "serviceType": "DYNAMIC",
        "uriSpec": {"parts": [{"value": "scheme", "variable": True}, {"value": "://", "variable": False},
                              {"value": "address", "variable": True}, {"value": ":", "variable": False},
                              {"value": "port", "variable": True}]},
    }  # fmt: skip
    path = f"{settings['ZOOKEEPER_BASE_PATH']}/jvm/j1"
    zookeeper.create(path, json.dumps(instance).encode(), ephemeral=True, makepath=True)
    for replica in replicas:
        eventually(lambda r=replica: r.discovered("jvm") == ["j1"], f"{replica.name} discovers it")  # type: ignore[misc]
        (discovered,) = replica.discover("jvm").instances
        assert discovered.service_url == "http://10.0.0.7:8080"
        assert dict(discovered.metadata) == {"zone": "eu"}
    zookeeper.delete(path)
    for replica in replicas:
        eventually(lambda r=replica: r.discovered("jvm") == [], f"{replica.name} no longer lists it")  # type: ignore[misc]
