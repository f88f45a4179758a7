"""A dead instance leaves though its owners are killed, stopped and restarted again and again; a living one stays."""

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

# An owner goes more often than a lease runs out.
LEASE_SECONDS, STIR_SECONDS = 8, 5.0
# What a machine with much else to do may take beyond the bound: the lease, an adoption, and one lease more.
SESSION_SECONDS, SLACK_SECONDS = 3, 30.0


class Living:
    """An instance that gives a sign of life every third of its lease, at whichever replica answers."""

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
    """Whether the store says so, at any replica that answers. A living one that is missing is a fault at once."""
    for replica in replicas:
        try:
            actions = [c.action for c in replica.trail(kind="instance", service_name=service) if c.key == "living"]
            assert "EXPIRE" not in actions, "the living one has expired"
            return "dead" not in replica.discovered(service)
        except grpc.RpcError:
            continue
    return False


def expired_at_any(service: str, replicas: list[Replica]) -> list[str]:
    """The instances whose lease has ended, in that order, as the first replica says that answers."""
    found: list[list[str]] = []

    def ask() -> bool:
        for replica in replicas:
            with contextlib.suppress(grpc.RpcError):
                trail = replica.trail(kind="instance", service_name=service)
                found.append([change.key for change in trail if change.action == "EXPIRE"])
                return True
        return False

    eventually(ask, "a replica answers")
    return found[0]


def stir_until_gone(service: str, stir: Callable[[], None], replicas: list[Replica], spoke: float) -> None:
    within = 2 * LEASE_SECONDS + SESSION_SECONDS + SLACK_SECONDS
    next_stir = time.monotonic() + STIR_SECONDS
    while not is_gone(service, replicas):
        assert time.monotonic() - spoke < within, "it lives for ever"
        if time.monotonic() >= next_stir:
            stir()
            next_stir = time.monotonic() + STIR_SECONDS
        time.sleep(0.1)
    # Whichever replica answers: one of them may just be starting.
    assert expired_at_any(service, replicas) == ["dead"]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_owners_that_go_in_turn(settings: dict[str, str], tmp_path: Path, zookeeper: KazooClient, how: str) -> None:
    service = f"turn-{how}"
    with fleet(tmp_path, settings, *(f"{name}-{secrets.token_hex(3)}" for name in "abc")) as replicas:
        first = replicas[0]
        for name in ("dead", "living"):
            first.register(service, name, ttl=LEASE_SECONDS)
        spoke = time.monotonic()

        def stir() -> None:
            owner = shown(zookeeper, settings, service).get("dead")
            for replica in replicas:
                if replica.name == owner:
                    replica.kill() if how == "kill" else replica.stop()
                    replica.start()

        with Living(service, replicas) as living:
            stir_until_gone(service, stir, replicas, spoke)
            # While it still speaks: one of the replicas may just be starting.
            for replica in replicas:
                eventually(lambda r=replica: r.discovered(service) == ["living"], "the living one is there")  # type: ignore[misc]
        assert not living.refused
        named = registry_pb2.DeregisterInstanceRequest(service_name=service, instance_id="living")
        first.registry.DeregisterInstance(named, timeout=15)


def test_the_embedded_service_is_killed_again_and_again(tmp_path: Path) -> None:
    service = "restarted"
    with ExitStack() as stack:
        port = stack.enter_context(Port())
        replica = Replica("embedded", tmp_path, {"SQLITE_PATH": str(tmp_path / "configsvc.db")}, port.number)
        stack.callback(replica.close)
        replica.started()
        for name in ("dead", "living"):
            replica.register(service, name, ttl=LEASE_SECONDS)
        spoke = time.monotonic()

        def stir() -> None:
            replica.kill()
            replica.started()

        with Living(service, [replica]) as living:
            stir_until_gone(service, stir, [replica], spoke)
            eventually(lambda: replica.discovered(service) == ["living"], "the living one is there")
        assert not living.refused


def test_a_registry_that_is_away_for_a_moment_again_and_again(
    settings: dict[str, str], private_zookeeper: Callable[[], ZooKeeper], tmp_path: Path
) -> None:
    service, zookeeper = "apart", private_zookeeper()
    own = {**settings, **zookeeper.environment()}
    with fleet(tmp_path, own, f"a-{secrets.token_hex(3)}", f"b-{secrets.token_hex(3)}") as replicas:
        for name in ("dead", "living"):
            replicas[0].register(service, name, ttl=LEASE_SECONDS)
        spoke = time.monotonic()

        def stir() -> None:
            zookeeper.kill()
            zookeeper.start()

        with Living(service, replicas) as living:
            stir_until_gone(service, stir, replicas, spoke)
        assert not living.refused
