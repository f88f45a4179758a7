"""What surrounds every call: request id, access log, deadline, and the revision that it waits for and returns."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
    return {
        "DEFAULT_DEADLINE_SECONDS": str(DEADLINE_SECONDS),
        "HEALTH_CHECK_TIMEOUT_SECONDS": "30",
        "ACCESS_LOG": "all",
    }


def trailing_metadata(call: Any) -> dict[str, Any]:
    """The metadata of a unary answer."""
    return dict(call.trailing_metadata())


def initial_metadata(stream: Any) -> dict[str, Any]:
    """The metadata that a stream begins with."""
    return dict(stream.initial_metadata())


def get(environment: str, key: str = "k", min_revision: int = 0) -> config_pb2.GetConfigRequest:
    return config_pb2.GetConfigRequest(key=key, environment=environment, min_revision=min_revision)


def test_request_id_is_the_callers_or_a_new_one(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    put(configs, environment, "k", 1)
    _, call = configs.GetConfig.with_call(get(environment), metadata=(("x-request-id", "mine"),))
    assert trailing_metadata(call)["x-request-id"] == "mine"
    made = {trailing_metadata(configs.GetConfig.with_call(get(environment))[1])["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    stream = configs.WatchConfigs(
        config_pb2.WatchConfigsRequest(environment=environment), metadata=(("x-request-id", "watch"),)
    )
    assert initial_metadata(stream)["x-request-id"] == "watch"
    stream.cancel()


def test_failed_call_has_its_request_id(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        configs.GetConfig(get(environment), metadata=(("x-request-id", "mine"),))
    assert trailing_metadata(raised.value)["x-request-id"] == "mine"
    watch = config_pb2.WatchConfigsRequest(environment=environment, after_revision=10**9)
    found = refused(lambda: configs.WatchConfigs(watch, metadata=(("x-request-id", "watch"),)))
    assert found.trailing["x-request-id"] == "watch"


def test_answer_has_the_applied_revision(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    revision = put(configs, environment, "k", 1).revision
    _, call = configs.GetConfig.with_call(get(environment))
    assert int(trailing_metadata(call)["x-revision"]) >= revision
    assert "x-stale" not in trailing_metadata(call)
    stream = configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment))
    assert int(initial_metadata(stream)["x-revision"]) >= revision
    stream.cancel()


def test_access_log_has_one_json_line_for_each_call_and_no_values(
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
        # A health check continues without its caller until its own timeout.
        for _, held in self._held:
            held.transport.abort()
        await asyncio.gather(*(handler for handler, _ in self._held), return_exceptions=True)

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._held.append((handler, writer))
        await reader.read()
        writer.close()


async def test_call_without_deadline_gets_the_default_one(
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


def test_read_waits_for_min_revision(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    revision = put(configs, environment, "k", "before").revision
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(configs.GetConfig, get(environment, min_revision=revision + 1), timeout=20)
        assert put(configs, environment, "k", "after").revision == revision + 1
        assert waiting.result().config.value.string_value == "after"


@pytest.mark.parametrize("timeout", [0.5, None])
def test_min_revision_not_reached_before_the_deadline_is_unavailable(
    configs: config_pb2_grpc.ConfigServiceStub, server: ServerProcess, environment: str, timeout: float | None
) -> None:
    revision = put(configs, environment, "k", 1).revision
    request, metadata = get(environment, min_revision=revision + 100), (("x-request-id", environment),)
    found = refused(lambda: configs.GetConfig(request, timeout=timeout, metadata=metadata))
    assert (found.code, found.info.reason) == (grpc.StatusCode.UNAVAILABLE, "REVISION_NOT_REACHED")
    (line,) = server.access_log(environment)
    assert (timeout or DEADLINE_SECONDS) * 500 < line["duration_ms"] < (timeout or DEADLINE_SECONDS) * 1000


def test_reads_of_every_service_wait_for_min_revision(
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    registry: registry_pb2_grpc.RegistryServiceStub,
    environment: str,
) -> None:
    future = put(configs, environment, "k", 1).revision + 100
    calls: dict[str, Callable[[], Any]] = {}
    for stub, module, name in (
        (configs, config_pb2, "ConfigService"),
        (flags, flag_pb2, "FlagService"),
        (registry, registry_pb2, "RegistryService"),
    ):
        for method in module.DESCRIPTOR.services_by_name[name].methods:
            if "min_revision" in method.input_type.fields_by_name:
                request = getattr(module, method.input_type.name)(min_revision=future)
                calls[method.name] = partial(getattr(stub, method.name), request)
    assert len(calls) >= 10
    # All at once, and without a deadline of the client, which could end before the answer arrives.
    with ThreadPoolExecutor(len(calls)) as pool:
        refusals = dict(zip(calls, pool.map(refused, calls.values()), strict=True))
    assert {name: error.info.reason for name, error in refusals.items()} == dict.fromkeys(calls, "REVISION_NOT_REACHED")


def test_cancelled_call_is_logged_as_cancelled(
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
