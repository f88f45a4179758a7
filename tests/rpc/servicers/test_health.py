"""grpc.health.v1 for each service: SERVING means that the state from which the service answers is complete."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import (
    change_pb2,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    health_pb2,
    health_pb2_grpc,
    registry_pb2,
)
from grpc_health.v1 import health_pb2 as probe_pb2
from grpc_health.v1 import health_pb2_grpc as probe_pb2_grpc

from configsvc.settings import load
from configsvc.wiring import build
from tests.engines.ports import Port
from tests.engines.postgres import Postgres
from tests.engines.zookeeper import ZooKeeper
from tests.rpc.refusals import refused
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess, eventually

SERVING, NOT_SERVING = probe_pb2.HealthCheckResponse.SERVING, probe_pb2.HealthCheckResponse.NOT_SERVING
NAMES = [
    service.full_name
    for module in (config_pb2, flag_pb2, registry_pb2, change_pb2, health_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


def statuses(channel: grpc.Channel) -> dict[str, int]:
    """The status of each service by its short name; the empty name is the server."""
    stub: Any = probe_pb2_grpc.HealthStub(channel)
    return {
        name.rpartition(".")[2]: stub.Check(probe_pb2.HealthCheckRequest(service=name), timeout=20).status
        for name in ("", *NAMES)
    }


ALL = ("", "ConfigService", "FlagService", "RegistryService", "ChangeService", "HealthService")


def test_every_service_is_serving_once_its_state_was_read(grpc_channel: grpc.Channel) -> None:
    assert statuses(grpc_channel) == dict.fromkeys(ALL, SERVING)


def test_check_of_an_unknown_service_is_not_found_and_its_watch_reports_unknown(
    grpc_channel: grpc.Channel, server: ServerProcess
) -> None:
    stub: Any = probe_pb2_grpc.HealthStub(grpc_channel)
    request = probe_pb2.HealthCheckRequest(service="none")
    metadata = (("x-request-id", "unknown"),)
    assert refused(lambda: stub.Check(request, metadata=metadata)).code == grpc.StatusCode.NOT_FOUND
    assert [line["code"] for line in server.access_log("unknown")] == ["NOT_FOUND"]
    with ResponseStream(stub.Watch(request)) as stream:
        assert stream.take().status == probe_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_watch_reports_the_shutdown_and_does_not_delay_it(own_server: Callable[..., ServerProcess]) -> None:
    server = own_server(SHUTDOWN_GRACE_SECONDS="60")
    with server.channel() as channel:
        stub: Any = probe_pb2_grpc.HealthStub(channel)
        with ResponseStream(stub.Watch(probe_pb2.HealthCheckRequest(service=NAMES[0]))) as stream:
            assert stream.take().status == SERVING
            server.terminate()
            rest, found = stream.end()
            assert [message.status for message in rest] in ([NOT_SERVING], [])
            assert found is not None
            assert found.code == grpc.StatusCode.UNAVAILABLE
            # Long before the grace has passed.
            assert server.wait_for_exit() == 0


async def test_no_service_is_serving_after_the_drain(tmp_path: Path) -> None:
    settings = load(sqlite_path=str(tmp_path / "configsvc.db"), service_registry_enabled=False)
    async with (
        build(settings, ["127.0.0.1:0"]) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel,
    ):
        stub: Any = probe_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(probe_pb2.HealthCheckRequest(service=name)) for name in ("", *NAMES)]
        assert [(await watch.read()).status for watch in watches] == [SERVING] * len(watches)
        await server.drain()
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * len(watches)
        # The status asks new callers to go elsewhere. Those that come are answered.
        configs: Any = config_pb2_grpc.ConfigServiceStub(channel)
        assert (await configs.ListConfigs(config_pb2.ListConfigsRequest(environment="test"))).revision == 0


@pytest.fixture
def store_that_is_down(
    private_postgres: Callable[..., Postgres], private_zookeeper: Callable[[], ZooKeeper]
) -> tuple[Postgres, ZooKeeper]:
    """A PostgreSQL that is down, and a ZooKeeper."""
    postgres, zookeeper = private_postgres(), private_zookeeper()
    postgres.kill()
    return postgres, zookeeper


def test_services_are_serving_only_after_a_store_that_was_down_could_be_read(
    store_that_is_down: tuple[Postgres, ZooKeeper], tmp_path: Path
) -> None:
    postgres, zookeeper = store_that_is_down
    settings = {**postgres.environment(), **zookeeper.environment(), "SERVICE_REGISTRY_ENABLED": "false"}
    with Port() as port, ServerProcess(f"127.0.0.1:{port.number}", tmp_path, settings) as server:
        server.wait_until_ready()
        with server.channel() as channel:
            stub: Any = probe_pb2_grpc.HealthStub(channel)
            assert statuses(channel) == {**dict.fromkeys(ALL, NOT_SERVING), "": SERVING, "HealthService": SERVING}
            watches = [ResponseStream(stub.Watch(probe_pb2.HealthCheckRequest(service=name))) for name in NAMES[:4]]
            assert [watch.take().status for watch in watches] == [NOT_SERVING] * 4
            postgres.start()
            assert [watch.take().status for watch in watches] == [SERVING] * 4
            assert statuses(channel) == dict.fromkeys(ALL, SERVING)
            # What was read once is in memory, so reads are still answered.
            postgres.kill()
            eventually(lambda: _storage(channel) == "down", "the health names it")
            assert statuses(channel) == dict.fromkeys(ALL, SERVING)
            for watch in watches:
                watch.__exit__()
        # Each line of the log is JSON, also those about what went wrong.
        assert any("can't be read" in line["event"] for line in server.log_lines())


def _storage(channel: grpc.Channel) -> str:
    health = health_pb2_grpc.HealthServiceStub(channel).GetHealth(health_pb2.GetHealthRequest(), timeout=20).health
    return next(part.state for part in health.components if part.name == "storage")
