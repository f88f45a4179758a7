"""The status table, on unary calls and on streams: the code, one ErrorInfo, and the details of each code."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import grpc
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    flag_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from google.rpc import error_details_pb2

from configsvc.domain.limits import LARGEST_KEY_CHARACTERS
from configsvc.storage.sql.checksums import checksum
from configsvc.storage.sql.rows import RECORD_COLUMNS
from tests.rpc.messages import put, value
from tests.rpc.refusals import Refusal, refused
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess

Code = grpc.StatusCode


def check(found: Refusal, code: grpc.StatusCode, reason: str) -> Refusal:
    """Checks the parts that every error has."""
    assert (found.code, found.info.reason) == (code, reason)
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", found.info.reason)
    assert found.info.domain == "configsvc"
    assert found.message
    return found


def test_missing_resource_is_not_found(
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    registry: registry_pb2_grpc.RegistryServiceStub,
    environment: str,
) -> None:
    config = config_pb2.GetConfigRequest(key="none", environment=environment)
    found = check(refused(lambda: configs.GetConfig(config)), Code.NOT_FOUND, "CONFIG_NOT_FOUND")
    assert dict(found.info.metadata) == {"environment": environment, "key": "none"}
    flag = flag_pb2.EvaluateFlagRequest(flag_name="none", environment=environment, user_id="ann")
    check(refused(lambda: flags.EvaluateFlag(flag)), Code.NOT_FOUND, "FLAG_NOT_FOUND")
    service = registry_pb2.GetServiceRequest(service_name="none")
    check(refused(lambda: registry.GetService(service)), Code.NOT_FOUND, "SERVICE_NOT_FOUND")
    heartbeat = registry_pb2.HeartbeatRequest(service_name="none", instance_id="none")
    check(refused(lambda: registry.Heartbeat(heartbeat)), Code.NOT_FOUND, "INSTANCE_NOT_FOUND")


def test_stream_about_missing_instance_is_not_found(registry: registry_pb2_grpc.RegistryServiceStub) -> None:
    alive = registry_pb2.KeepAliveRequest(service_name="none", instance_id="none")
    check(refused(lambda: registry.KeepAlive(iter([alive]))), Code.NOT_FOUND, "INSTANCE_NOT_FOUND")


def test_create_of_existing_resource_is_already_exists(
    configs: config_pb2_grpc.ConfigServiceStub, flags: flag_pb2_grpc.FlagServiceStub, environment: str
) -> None:
    config = config_pb2.CreateConfigRequest(key="k", environment=environment, value=value(1))
    etag = configs.CreateConfig(config).config.etag
    found = check(refused(lambda: configs.CreateConfig(config)), Code.ALREADY_EXISTS, "CONFIG_ALREADY_EXISTS")
    assert found.info.metadata["etag"] == etag
    flag = flag_pb2.CreateFlagRequest(name="f", environment=environment)
    flags.CreateFlag(flag)
    check(refused(lambda: flags.CreateFlag(flag)), Code.ALREADY_EXISTS, "FLAG_ALREADY_EXISTS")


def test_invalid_argument_names_every_field(
    configs: config_pb2_grpc.ConfigServiceStub,
    flags: flag_pb2_grpc.FlagServiceStub,
    registry: registry_pb2_grpc.RegistryServiceStub,
    changes: change_pb2_grpc.ChangeServiceStub,
) -> None:
    calls: list[tuple[Callable[[], object], set[str]]] = [
        (lambda: configs.CreateConfig(config_pb2.CreateConfigRequest()), {"key", "environment", "value"}),
        (
            lambda: flags.CreateFlag(flag_pb2.CreateFlagRequest(name="f", environment="e", rollout_percentage=101)),
            {"rollout_percentage"},
        ),
        (
            lambda: registry.RegisterInstance(
                registry_pb2.RegisterInstanceRequest(service_name="s", service_url="ftp://h:1", health_check_url="x:y")
            ),
            {"service_url", "health_check_url"},
        ),
        (lambda: changes.ListChanges(change_pb2.ListChangesRequest(page_size=-1)), {"page_size"}),
        (
            lambda: configs.GetConfig(config_pb2.GetConfigRequest(key="k", environment="e", min_revision=-1)),
            {"min_revision"},
        ),
    ]
    for call, fields in calls:
        found = check(refused(call), Code.INVALID_ARGUMENT, "INVALID_INPUT")
        assert set(found.fields) >= fields
        for violation in found.all(error_details_pb2.BadRequest)[0].field_violations:
            assert violation.description


def test_invalid_argument_of_a_stream_names_every_field(
    configs: config_pb2_grpc.ConfigServiceStub, registry: registry_pb2_grpc.RegistryServiceStub
) -> None:
    watch = config_pb2.WatchConfigsRequest(prefix="p" * (LARGEST_KEY_CHARACTERS + 1))
    found = check(refused(lambda: configs.WatchConfigs(watch)), Code.INVALID_ARGUMENT, "INVALID_INPUT")
    assert set(found.fields) == {"environment", "prefix"}
    service = registry_pb2.WatchServiceRequest()
    found = check(refused(lambda: registry.WatchService(service)), Code.INVALID_ARGUMENT, "INVALID_INPUT")
    assert found.fields == ["service_name"]
    alive = registry_pb2.KeepAliveRequest(service_name="s")
    found = check(refused(lambda: registry.KeepAlive(iter([alive]))), Code.INVALID_ARGUMENT, "INVALID_INPUT")
    assert found.fields == ["instance_id"]


def test_many_violations_fit_into_the_trailers(
    configs: config_pb2_grpc.ConfigServiceStub, registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    """Clients refuse more than 8 KiB of trailers, and would show RESOURCE_EXHAUSTED in place of the error."""
    names = [f"{number:02}" + "\N{GRINNING FACE}" * 126 for number in range(60)]
    request = registry_pb2.RegisterInstanceRequest(
        service_name="s", service_url="http://h:1", metadata=dict.fromkeys(names, "x" * 1_025)
    )
    found = check(refused(lambda: registry.RegisterInstance(request)), Code.INVALID_ARGUMENT, "INVALID_INPUT")
    assert 5 <= len(found.fields) < 60
    assert all(field.startswith("metadata[") for field in found.fields)
    sizes = [
        len(key) + len(value.encode() if isinstance(value, str) else value) for key, value in found.trailing.items()
    ]
    assert sum(sizes) < 8_000
    key = config_pb2.GetConfigRequest(key="\N{GRINNING FACE}" * 512, environment=environment, service_name="s" * 128)
    check(refused(lambda: configs.GetConfig(key)), Code.NOT_FOUND, "CONFIG_NOT_FOUND")


def test_stale_etag_aborts_and_changes_nothing(configs: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    old = put(configs, environment, "k", 1).config.etag
    new = put(configs, environment, "k", 2).config.etag
    found = check(refused(lambda: put(configs, environment, "k", 3, etag=old)), Code.ABORTED, "STALE_ETAG")
    assert found.info.metadata["etag"] == new
    get = config_pb2.GetConfigRequest(key="k", environment=environment)
    assert configs.GetConfig(get).config.value.number_value == 2


def test_rollback_to_a_delete_is_failed_precondition(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    put(configs, environment, "k", 1)
    configs.DeleteConfig(config_pb2.DeleteConfigRequest(key="k", environment=environment))
    rollback = config_pb2.RollbackConfigRequest(key="k", environment=environment, version=2)
    check(refused(lambda: configs.RollbackConfig(rollback)), Code.FAILED_PRECONDITION, "VERSION_IS_DELETE")


def test_watch_from_future_revision_is_out_of_range(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    current = put(configs, environment, "k", 1).revision
    watch = config_pb2.WatchConfigsRequest(environment=environment, after_revision=current + 1)
    found = check(refused(lambda: configs.WatchConfigs(watch)), Code.OUT_OF_RANGE, "REVISION_OUT_OF_RANGE")
    assert dict(found.info.metadata) == {"oldest_revision": "0", "current_revision": str(current)}


def test_min_revision_not_reached_is_unavailable_with_retry_delay(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    current = put(configs, environment, "k", 1).revision
    get = config_pb2.GetConfigRequest(key="k", environment=environment, min_revision=current + 1)
    found = check(refused(lambda: configs.GetConfig(get, timeout=0.6)), Code.UNAVAILABLE, "REVISION_NOT_REACHED")
    (retry,) = found.all(error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1
    assert found.info.metadata["required"] == str(current + 1)


def test_unexpected_error_is_internal_with_fixed_text_and_logged_cause(
    configs: config_pb2_grpc.ConfigServiceStub, server: ServerProcess, environment: str
) -> None:
    put(configs, environment, "k", "hunter2")
    with closing(sqlite3.connect(server.database)) as database, database:
        # The checksum is correct, so this is not reported as corruption of the disk.
        database.create_function("checksum_of", -1, checksum)
        columns = ", ".join(RECORD_COLUMNS)
        corrupted = database.execute("UPDATE records SET body = '{hunter2' WHERE environment = ?", [environment])
        assert corrupted.rowcount == 1
        database.execute(f"UPDATE records SET checksum = checksum_of({columns}) WHERE environment = ?", [environment])
    metadata = (("x-request-id", f"corrupted-{environment}"),)
    calls: list[Callable[[], object]] = [
        lambda: configs.ListConfigs(config_pb2.ListConfigsRequest(environment=environment), metadata=metadata),
        lambda: configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment), metadata=metadata),
    ]
    for number, call in enumerate(calls, 1):
        found = check(refused(call), Code.INTERNAL, "INTERNAL")
        assert found.message == "internal error; the log has its cause"
        assert not found.info.metadata
        causes = [line for line in server.log_lines() if "JSONDecodeError" in line.get("exception", "")]
        assert [line["request_id"] for line in causes] == [f"corrupted-{environment}"] * number
    assert "hunter2" not in server.log.read_text()


def test_error_in_the_middle_of_a_stream_has_its_status(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    registry.RegisterInstance(
        registry_pb2.RegisterInstanceRequest(service_name=environment, instance_id="one", service_url="http://h:1")
    )
    messages = [
        registry_pb2.KeepAliveRequest(service_name=environment, instance_id="one"),
        registry_pb2.KeepAliveRequest(service_name=environment, instance_id="two"),
    ]
    with ResponseStream(registry.KeepAlive(iter(messages))) as stream:
        assert stream.take().lease_ttl_seconds == 30
        rest, found = stream.end()
    assert not rest
    assert found is not None
    assert check(found, Code.INVALID_ARGUMENT, "INVALID_INPUT").fields == ["instance_id"]


def test_malformed_request_is_invalid_argument(grpc_channel: grpc.Channel) -> None:
    unary: Any = grpc_channel.unary_unary("/configsvc.v1.ConfigService/GetConfig")
    found = check(refused(lambda: unary(b"\xff\xff\xff")), Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert found.fields == ["request"]
    watch: Any = grpc_channel.unary_stream("/configsvc.v1.ConfigService/WatchConfigs")
    check(refused(lambda: watch(b"\xff\xff\xff")), Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    alive: Any = grpc_channel.stream_stream("/configsvc.v1.RegistryService/KeepAlive")
    check(refused(lambda: alive(iter([b"\xff\xff\xff"]))), Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")


def test_deepest_allowed_value_is_in_every_read_and_a_deeper_one_is_refused(
    configs: config_pb2_grpc.ConfigServiceStub, flags: flag_pb2_grpc.FlagServiceStub, environment: str
) -> None:
    deepest: dict[str, object] = {"a": {}}
    for _ in range(28):
        deepest = {"a": deepest}
    put(configs, environment, "deep", 1)
    put(configs, environment, "deep", deepest)
    history = config_pb2.ListConfigHistoryRequest(key="deep", environment=environment)
    assert configs.ListConfigHistory(history).versions[0].after == value(deepest)
    with ResponseStream(configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment))) as stream:
        assert stream.take_until("snapshot")[0].snapshot.configs[0].value == value(deepest)
        stream.take()
        put(configs, environment, "deep", {"b": deepest["a"]})
        assert stream.take_until("change")[-1].change.previous.value == value(deepest)
    found = check(
        refused(lambda: put(configs, environment, "deeper", {"a": deepest})), Code.INVALID_ARGUMENT, "INVALID_INPUT"
    )
    assert found.fields == ["value"]
    variants = [flag_pb2.Variant(name="on", value=value({"a": deepest})), flag_pb2.Variant(name="off")]
    flag = flag_pb2.CreateFlagRequest(name="f", environment=environment, variants=variants)
    found = check(refused(lambda: flags.CreateFlag(flag)), Code.INVALID_ARGUMENT, "INVALID_INPUT")
    assert found.fields == ["variants[0].value"]


def test_unknown_method_is_unimplemented_and_logged(grpc_channel: grpc.Channel, server: ServerProcess) -> None:
    call: Any = grpc_channel.unary_unary("/configsvc.v1.ConfigService/Forget")
    assert refused(lambda: call(b"")).code == Code.UNIMPLEMENTED
    logged = [line for line in server.log_lines() if line.get("method", "").endswith("/Forget")]
    assert [line["code"] for line in logged] == ["UNIMPLEMENTED"]
