"""A dead instance expires although its owners are killed, stopped and restarted repeatedly; a living one stays."""

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from configsvc_client.v1 import registry_pb2
from kazoo.client import KazooClient

from tests.engines.ports import Port
from tests.engines.zookeeper import ZooKeeper
from tests.replicas.conftest import shown
from tests.replicas.fleet import Replica, eventually, fleet

# Owners change more often than a lease expires.
LEASE_SECONDS, DISTURB_SECONDS = 8, 5.0
# How far a busy machine may exceed the bound, which is the lease, an adoption and one more lease.
SESSION_SECONDS, SLACK_SECONDS = 3, 30.0


class Living:
    """An instance that sends a heartbeat every third of its lease, to any replica that answers."""

    def __init__(self, service: str, replicas: list[Replica]) -> None:
        self._service = service
        self._replicas = replicas
        self._over = threading.Event()
        self.refused: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Living":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(LEASE_SECONDS / 3 - 1):
            self._beat()

    def _beat(self) -> None:
        while not self._over.is_set():
            try:
                random.choice(self._replicas).heartbeat(self._service, "living")
                return
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    self.refused.append(error.details() or "")
                    return
            self._over.wait(0.2)


def is_gone(service: str, replicas: list[Replica]) -> bool:
    """Whether any replica that answers has recorded the expiry. Fails at once if the living instance is missing."""
    for replica in replicas:
        try:
            actions = [c.action for c in replica.trail(kind="instance", service_name=service) if c.key == "living"]
            assert "EXPIRE" not in actions, "the living instance has expired"
            return "dead" not in replica.discovered(service)
        except grpc.RpcError:
            continue
    return False


def expired_at_any(service: str, replicas: list[Replica]) -> list[str]:
    """The instances whose lease has ended, in that order, from the first replica that answers."""
    expired: list[list[str]] = []

    def ask() -> bool:
        for replica in replicas:
            with contextlib.suppress(grpc.RpcError):
                trail = replica.trail(kind="instance", service_name=service)
                expired.append([change.key for change in trail if change.action == "EXPIRE"])
                return True
        return False

    eventually(ask, "a replica answers")
    return expired[0]


def disturb_until_expired(
    service: str, disturb: Callable[[], None], replicas: list[Replica], last_heartbeat: float
) -> None:
    within = 2 * LEASE_SECONDS + SESSION_SECONDS + SLACK_SECONDS
    next_disturbance = time.monotonic() + DISTURB_SECONDS
    while not is_gone(service, replicas):
        assert time.monotonic() - last_heartbeat < within, "its lease never expires"
        if time.monotonic() >= next_disturbance:
            disturb()
            next_disturbance = time.monotonic() + DISTURB_SECONDS
        time.sleep(0.1)
    # Any replica may answer: one of them may just be starting.
    assert expired_at_any(service, replicas) == ["dead"]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_dead_instance_expires_while_owners_are_replaced_in_turn(
    settings: dict[str, str], tmp_path: Path, zookeeper: KazooClient, how: str
) -> None:
    service = f"turn-{how}"
    with fleet(tmp_path, settings, *(f"{name}-{secrets.token_hex(3)}" for name in "abc")) as replicas:
        first = replicas[0]
        for name in ("dead", "living"):
            first.register(service, name, ttl=LEASE_SECONDS)
        last_heartbeat = time.monotonic()

        def disturb() -> None:
            owner = shown(zookeeper, settings, service).get("dead")
            for replica in replicas:
                if replica.name == owner:
                    replica.kill() if how == "kill" else replica.stop()
                    replica.start()

        with Living(service, replicas) as living:
            disturb_until_expired(service, disturb, replicas, last_heartbeat)
            # While it still sends heartbeats: one of the replicas may just be starting.
            for replica in replicas:
                eventually(lambda r=replica: r.discovered(service) == ["living"], "the living instance is listed")  # type: ignore[misc]
        assert not living.refused
        named = registry_pb2.DeregisterInstanceRequest(service_name=service, instance_id="living")
        first.registry.DeregisterInstance(named, timeout=15)


def test_dead_instance_expires_while_the_embedded_service_is_killed_repeatedly(tmp_path: Path) -> None:
    service = "restarted"
    with ExitStack() as stack:
        port = stack.enter_context(Port())
        replica = Replica("embedded", tmp_path, {"SQLITE_PATH": str(tmp_path / "configsvc.db")}, port.number)
        stack.callback(replica.close)
        replica.started()
        for name in ("dead", "living"):
            replica.register(service, name, ttl=LEASE_SECONDS)
        last_heartbeat = time.monotonic()

        def disturb() -> None:
            replica.kill()
            replica.started()

        with Living(service, [replica]) as living:
            disturb_until_expired(service, disturb, [replica], last_heartbeat)
            eventually(lambda: replica.discovered(service) == ["living"], "the living instance is listed")
        assert not living.refused


def test_dead_instance_expires_while_the_registry_fails_repeatedly(
    settings: dict[str, str], private_zookeeper: Callable[[], ZooKeeper], tmp_path: Path
) -> None:
    service, zookeeper = "apart", private_zookeeper()
    own = {**settings, **zookeeper.environment()}
    with fleet(tmp_path, own, f"a-{secrets.token_hex(3)}", f"b-{secrets.token_hex(3)}") as replicas:
        for name in ("dead", "living"):
            replicas[0].register(service, name, ttl=LEASE_SECONDS)
        last_heartbeat = time.monotonic()

        def disturb() -> None:
            zookeeper.kill()
            zookeeper.start()

        with Living(service, replicas) as living:
            disturb_until_expired(service, disturb, replicas, last_heartbeat)
        assert not living.refused
