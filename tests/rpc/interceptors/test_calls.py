"""What every call goes through: its id, its line in the log, its deadline, the revision that it waits for and tells."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc, flag_pb2, flag_pb2_grpc, registry_pb2, registry_pb2_grpc

from tests.rpc.messages import put, value
from tests.rpc.refusals import refused
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess

SECRET = "hunter2"
DEADLINE_SECONDS = 1.0


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"DEFAULT_DEADLINE_SECONDS": str(DEADLINE_SECONDS), "HEALTH_CHECK_TIMEOUT_SECONDS": "30"}


def told(call: Any) -> dict[str, Any]:
    """What an answer says of itself, at its end."""
    return dict(call.trailing_metadata())


def told_first(stream: Any) -> dict[str, Any]:
    """What a stream says of itself, at its beginning."""
    return dict(stream.initial_metadata())


def get(environment: str, key: str = "k", min_revision: int = 0) -> config_pb2.GetConfigRequest:
    return config_pb2.GetConfigRequest(key=key, environment=environment, min_revision=min_revision)


def test_the_callers_request_id_comes_back_and_one_is_made_for_who_has_none(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    put(configs, environment, "k", 1)
    _, call = configs.GetConfig.with_call(get(environment), metadata=(("x-request-id", "mine"),))
    assert told(call)["x-request-id"] == "mine"
    made = {told(configs.GetConfig.with_call(get(environment))[1])["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    stream = configs.WatchConfigs(
        config_pb2.WatchConfigsRequest(environment=environment), metadata=(("x-request-id", "watch"),)
    )
    assert told_first(stream)["x-request-id"] == "watch"
    stream.cancel()


def test_a_refused_call_has_its_request_id_too(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        configs.GetConfig(get(environment), metadata=(("x-request-id", "mine"),))
    assert told(raised.value)["x-request-id"] == "mine"
    watch = config_pb2.WatchConfigsRequest(environment=environment, after_revision=10**9)
    found = refused(lambda: configs.WatchConfigs(watch, metadata=(("x-request-id", "watch"),)))
    assert found.trailing["x-request-id"] == "watch"


def test_the_answer_says_the_applied_revision(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    revision = put(configs, environment, "k", 1).revision
    _, call = configs.GetConfig.with_call(get(environment))
    assert int(told(call)["x-revision"]) >= revision
    assert "x-stale" not in told(call)
    stream = configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment))
    assert int(told_first(stream)["x-revision"]) >= revision
    stream.cancel()


def test_the_log_has_one_json_line_a_call_and_no_values(
    configs: config_pb2_grpc.ConfigServiceStub, server: ServerProcess, environment: str
) -> None:
    def metadata(name: str) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", f"{name}-{environment}"), ("x-actor", "ann"))

    create = config_pb2.CreateConfigRequest(
        key="k", environment=environment, value=value({"password": SECRET}), description=SECRET
    )
    configs.CreateConfig(create, metadata=metadata("create"))
    refused(lambda: configs.CreateConfig(create, metadata=metadata("again")))
    configs.GetConfig(get(environment), metadata=metadata("get"))
    watch = config_pb2.WatchConfigsRequest(environment=environment)
    with ResponseStream(configs.WatchConfigs(watch, metadata=metadata("watch"))) as stream:
        assert stream.take().snapshot.configs[0].value.struct_value["password"] == SECRET
    expected = {
        "create": ("CreateConfig", "OK", None),
        "again": ("CreateConfig", "ALREADY_EXISTS", "CONFIG_ALREADY_EXISTS"),
        "get": ("GetConfig", "OK", None),
        "watch": ("WatchConfigs", "CANCELLED", None),
    }
    for name, (method, code, reason) in expected.items():
        (line,) = server.access_log(f"{name}-{environment}")
        assert line["method"] == f"/configsvc.v1.ConfigService/{method}"
        assert (line["code"], line.get("reason"), line["actor"]) == (code, reason, "ann")
        assert line["duration_ms"] >= 0
        assert line["peer"]
    assert SECRET not in server.log.read_text()


class Silent:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self._held: list[tuple[asyncio.Task[Any], asyncio.StreamWriter]] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        # A check goes on when its caller has left, until its own time-out.
        for _, held in self._held:
            held.transport.abort()
        await asyncio.gather(*(handler for handler, _ in self._held), return_exceptions=True)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._held.append((handler, writer))
        await reader.read()
        writer.close()


async def test_a_call_without_a_deadline_gets_one(
    registry: registry_pb2_grpc.RegistryServiceStub, server: ServerProcess, environment: str
) -> None:
    async with Silent() as url:
        registry.RegisterInstance(
            registry_pb2.RegisterInstanceRequest(
                service_name=environment, instance_id="one", service_url=url, health_check_url=url
            )
        )
        check = registry_pb2.CheckServiceHealthRequest(service_name=environment)
        metadata = (("x-request-id", environment),)
        found = await asyncio.to_thread(
            refused, lambda: registry.CheckServiceHealth(check, metadata=metadata, wait_for_ready=True)
        )
        assert (found.code, found.info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        (line,) = server.access_log(environment)
        assert line["code"] == "DEADLINE_EXCEEDED"
        # uvloop's timers count whole milliseconds, so one may fire up to a millisecond early.
        assert DEADLINE_SECONDS * 1000 - 1 <= line["duration_ms"] < 10_000
        registry.DeregisterInstance(registry_pb2.DeregisterInstanceRequest(service_name=environment, instance_id="one"))


def test_a_read_waits_for_the_revision_that_it_asks_for(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    revision = put(configs, environment, "k", "before").revision
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(configs.GetConfig, get(environment, min_revision=revision + 1), timeout=20)
        assert put(configs, environment, "k", "after").revision == revision + 1
        assert waiting.result().config.value.string_value == "after"


@pytest.mark.parametrize("timeout", [0.5, None])
def test_a_revision_that_does_not_come_within_the_deadline_is_unavailable(
    configs: config_pb2_grpc.ConfigServiceStub, server: ServerProcess, environment: str, timeout: float | None
) -> None:
    revision = put(configs, environment, "k", 1).revision
    request, metadata = get(environment, min_revision=revision + 100), (("x-request-id", environment),)
    found = refused(lambda: configs.GetConfig(request, timeout=timeout, metadata=metadata))
    assert (found.code, found.info.reason) == (grpc.StatusCode.UNAVAILABLE, "REVISION_NOT_REACHED")
    (line,) = server.access_log(environment)
    assert (timeout or DEADLINE_SECONDS) * 500 < line["duration_ms"] < (timeout or DEADLINE_SECONDS) * 1000


def test_reads_of_every_service_wait_for_a_revision(
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    registry: registry_pb2_grpc.RegistryServiceStub,
    environment: str,
) -> None:
    future = put(configs, environment, "k", 1).revision + 100
    asked = 0
    for stub, module, name in (
        (configs, config_pb2, "ConfigService"),
        (flags, flag_pb2, "FlagService"),
        (registry, registry_pb2, "RegistryService"),
    ):
        for method in module.DESCRIPTOR.services_by_name[name].methods:
            if "min_revision" not in method.input_type.fields_by_name:
                continue
            request = getattr(module, method.input_type.name)(min_revision=future)
            found = refused(lambda s=stub, m=method, r=request: getattr(s, m.name)(r, timeout=0.3))  # type: ignore[misc]
            assert (method.name, found.info.reason) == (method.name, "REVISION_NOT_REACHED")
            asked += 1
    assert asked >= 10


def test_a_cancelled_call_is_logged_as_such(
    configs: config_pb2_grpc.ConfigServiceStub, server: ServerProcess, environment: str
) -> None:
    revision = put(configs, environment, "k", 1).revision
    request, ended = get(environment, min_revision=revision + 100), threading.Event()
    call = configs.GetConfig.future(request, timeout=30, metadata=(("x-request-id", environment),))
    call.add_done_callback(lambda _: ended.set())
    put(configs, environment, "k", 2)
    call.cancel()
    assert ended.wait(10)
    (line,) = server.access_log(environment)
    assert line["code"] == "CANCELLED"
