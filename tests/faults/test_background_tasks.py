"""Every supervised task of a whole service fails once: it is started again, and /health reports it in the meantime."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import (
    config_pb2,
    config_pb2_grpc,
    health_pb2,
    health_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from google.protobuf.struct_pb2 import Value

import configsvc
from configsvc import wiring
from configsvc.clock import SystemClock
from configsvc.settings import load
from configsvc.tasks import HEALTHY_SECONDS, Supervisor
from tests.engines.plugin import RedisAddress
from tests.replicas.conftest import events

pytestmark = pytest.mark.timeout(300)

EVERYWHERE = {
    "log tail", "log announcements", "watch progress", "compaction", "group commit", "health checks", "lease sweep",
    "registry follower", "own registration",
}  # fmt: skip
ASSIGNMENTS = {"assignments, sending", "assignments, refresh", "assignments, refill"}
FALLBACK_CACHE = {"fallback cache, sending", "fallback cache, refresh", "fallback cache, refill"}
EMBEDDED = EVERYWHERE | ASSIGNMENTS | {"watch of the database file", "check of the database file"}
POSTGRES = EVERYWHERE | {"notifications"}
REAL = (
    EVERYWHERE
    | ASSIGNMENTS
    | FALLBACK_CACHE
    | {"log checkpoint", "outbox relay", "kafka consumer"}
    | {"zookeeper session", "zookeeper answers", "zookeeper watches", "zookeeper own nodes"}
    | {"zookeeper own lists"}
)


class Ahead(SystemClock):
    """The machine's clock, which a test can advance."""

    seconds = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.seconds


class Service:
    """One server in this process, and stubs to it."""

    def __init__(self, supervisor: Supervisor, clock: Ahead, channel: grpc.aio.Channel) -> None:
        self.supervisor, self.clock = supervisor, clock
        self.configs: Any = config_pb2_grpc.ConfigServiceStub(channel)
        self.registry: Any = registry_pb2_grpc.RegistryServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthServiceStub(channel)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.clock.sleep(0.01)

    async def component(self, name: str) -> Any:
        health = (await self.health.GetHealth(health_pb2.GetHealthRequest())).health
        (match,) = [component for component in health.components if component.name == name]
        return match


@asynccontextmanager
async def service(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Service]:
    made: list[Supervisor] = []

    class Seen(Supervisor):
        def __init__(self, clock: Any) -> None:
            super().__init__(clock)
            made.append(self)

    monkeypatch.setattr(wiring, "Supervisor", Seen)
    clock = Ahead()
    async with (
        wiring.build(load(watch_progress_seconds=1, **settings), ["127.0.0.1:0"], clock) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel,
    ):
        yield Service(made[0], clock, channel)


async def each_comes_back(running: Service, expected: set[str]) -> int:
    """Makes each task fail once, then checks that each works again; returns the revision of a write after that."""
    watch = running.configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment="test"))
    assert (await watch.read()).HasField("synced")
    names = {task.name for task in running.supervisor.tasks}
    await running.until(lambda: expected <= {task.name for task in running.supervisor.tasks})
    await running.until(lambda: not [k for k in running.supervisor.tasks if k.name not in expected])
    assert {task.name for task in running.supervisor.tasks} == expected, names
    assert (await running.component("tasks")).state == "up"
    for task in running.supervisor.tasks:
        assert task.starts == 1, task.name
        assert task._run is not None
        task._run.cancel()
        await running.until(lambda k=task: k.starts == 2)  # type: ignore[misc]
        component = await running.component("tasks")
        assert component.state == "degraded"
        assert f"'{task.name}' failed once since" in component.detail
    assert {failure.task for failure in running.supervisor.failures} == expected
    running.clock.seconds += HEALTHY_SECONDS
    assert (await running.component("tasks")).state == "up"
    # Each task shows that it works by its effect.
    written = await running.configs.CreateConfig(
        config_pb2.CreateConfigRequest(key="k", environment="test", value=Value(number_value=1))
    )
    while not (message := await watch.read()).HasField("change"):
        assert message.HasField("progress")
    assert message.change.revision == written.revision
    assert (await watch.read()).progress.revision >= written.revision
    await running.registry.RegisterInstance(
        registry_pb2.RegisterInstanceRequest(service_name="svc", instance_id="one", service_url="http://h:1")
    )
    discovered = await running.registry.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name="svc"))
    assert ([i.instance_id for i in discovered.instances], discovered.stale) == (["one"], False)
    watch.cancel()
    return int(written.revision)


async def test_every_task_of_an_embedded_service_restarts_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with service(monkeypatch, sqlite_path=str(tmp_path / "configsvc.db")) as running:
        await each_comes_back(running, EMBEDDED)


async def test_every_task_on_postgresql_alone_restarts_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    async with service(monkeypatch, database_url=postgres_url) as running:
        await each_comes_back(running, POSTGRES)


async def test_every_task_on_all_backends_restarts_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    postgres_url: str,
    redis_address: RedisAddress,
    kafka_bootstrap: str,
    topic: str,
    zookeeper_hosts: str,
    chroot: str,
) -> None:
    redis = {name.lower(): value for name, value in redis_address.environment().items()}
    settings = {
        "database_url": postgres_url, "kafka_bootstrap_servers": kafka_bootstrap, "kafka_topic_config_updates": topic,
        "zookeeper_hosts": zookeeper_hosts, "zookeeper_base_path": chroot, **redis,
    }  # fmt: skip
    async with service(monkeypatch, **settings) as running:
        revision = await each_comes_back(running, REAL)
    kafka_settings = {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "KAFKA_TOPIC_CONFIG_UPDATES": topic}
    assert revision in [event["revision"] for event in events(kafka_settings, revision)], "the relay publishes"


# The allowed number of unsupervised tasks in each file. These tasks end, and their callers await or hold them.
STARTED_OTHERWISE = {
    "tasks.py": 3,  # starts all supervised tasks
    "single_flight.py": 1,  # a run that its callers await
    "clock.py": 2,  # a timer, and work that its caller awaits
    "app/configs/near_cache.py": 1,  # a read that its callers await
    "app/changelog/outbox/relay.py": 1,  # a publication that the relay waits for
    "app/registry/leases/keep_alive.py": 2,  # a race that its caller awaits
    "app/registry/ownership/reconciler.py": 1,  # in a task group
    "registry/zookeeper/bounded_work.py": 1,  # in a task group
    "storage/postgres/pools.py": 1,  # a statement that its caller awaits
    "rpc/server.py": 1,  # the shutdown
    "rpc/engine/grpcio.py": 1,  # watches its server until it is stopped
    "rpc/engine/native.py": 1,  # a call, which the engine holds until its end
}


def test_no_other_task_is_started_without_supervision() -> None:
    root = Path(configsvc.__file__).parent
    started = {
        str(file.relative_to(root)): number
        for file in root.rglob("*.py")
        if (number := len(re.findall(r"create_task\(|ensure_future\(", file.read_text())))
    }
    assert started == STARTED_OTHERWISE
