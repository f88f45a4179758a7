"""The server itself: reflection, message sizes, and clients that ping."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import change_pb2, change_pb2_grpc, config_pb2, config_pb2_grpc
from google.protobuf import descriptor_pb2
from google.protobuf.struct_pb2 import ListValue, Value
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from configsvc.domain.sizes import RESOURCE_BYTES
from configsvc.rpc.engine.grpcio import COUNTING_PREFIX
from tests.rpc.messages import put, value
from tests.rpc.refusals import refused
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess

SERVICES = {
    "configsvc.v1.ChangeService",
    "configsvc.v1.ConfigService",
    "configsvc.v1.FlagService",
    "configsvc.v1.HealthService",
    "configsvc.v1.RegistryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}
VALUE_BYTES = 1 << 20
REQUEST_BYTES = 32 << 20


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"WATCH_PROGRESS_SECONDS": "600", "MAX_REQUEST_BYTES": str(REQUEST_BYTES)}


@pytest.fixture
def large(server: ServerProcess) -> Iterator[config_pb2_grpc.ConfigServiceStub]:
    """A client that receives and sends messages of any size."""
    with server.channel(max_receive_message_length=-1, max_send_message_length=-1) as channel:
        yield config_pb2_grpc.ConfigServiceStub(channel)


def test_reflection_lists_and_describes_every_service(grpc_channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(grpc_channel)
    request = reflection_pb2.ServerReflectionRequest
    (listed,) = stub.ServerReflectionInfo(iter([request(list_services="")]))
    names = {service.name for service in listed.list_services_response.service}
    assert names == SERVICES
    queries = [request(file_containing_symbol=name) for name in sorted(names)]
    for name, answer in zip(sorted(names), stub.ServerReflectionInfo(iter(queries)), strict=True):
        files = map(
            descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto
        )
        assert name in {f"{file.package}.{service.name}" for file in files for service in file.service}


def test_value_of_the_largest_size_is_stored_and_returned(
    large: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    # The quotes take two bytes.
    text = "x" * (VALUE_BYTES - 2)
    put(large, environment, "k", text)
    get = config_pb2.GetConfigRequest(key="k", environment=environment)
    assert large.GetConfig(get).config.value.string_value == text


def test_too_large_value_is_refused_with_its_field(large: config_pb2_grpc.ConfigServiceStub, environment: str) -> None:
    text = "x" * (VALUE_BYTES - 1)
    found = refused(lambda: put(large, environment, "k", text))
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["value"])
    operations = [config_pb2.ConfigOperation(key=key, value=value(of)) for key, of in (("a", "small"), ("b", text))]
    batch = config_pb2.BatchWriteConfigsRequest(environment=environment, operations=operations)
    assert refused(lambda: large.BatchWriteConfigs(batch)).fields == ["operations[1].value"]
    listed = large.ListConfigs(config_pb2.ListConfigsRequest(environment=environment))
    assert not listed.configs


def test_large_values_written_in_one_message_are_read_in_several(server: ServerProcess, environment: str) -> None:
    """A request may have MAX_REQUEST_BYTES. Each answer fits into what a stock client receives."""
    texts = {f"k{number:02}": f"{number:02}" + "x" * (VALUE_BYTES - 4) for number in range(16)}
    operations = [config_pb2.ConfigOperation(key=key, value=value(text)) for key, text in texts.items()]
    batch = config_pb2.BatchWriteConfigsRequest(environment=environment, operations=operations)
    with server.channel(max_send_message_length=-1) as channel:
        stock = config_pb2_grpc.ConfigServiceStub(channel)
        written = stock.BatchWriteConfigs(batch, timeout=60).configs
        assert [config.key for config in written] == list(texts)
        whole = [config for config in written if not config.value_omitted]
        assert 0 < len(whole) < 16
        assert all(config.value.string_value == texts[config.key] for config in whole)
        assert not any(config.HasField("value") for config in written if config.value_omitted)
        assert all(config.etag and config.version == 1 for config in written)
        found, pages, token = {}, 0, ""
        while token or not pages:
            page = stock.ListConfigs(
                config_pb2.ListConfigsRequest(environment=environment, page_token=token), timeout=60
            )
            assert page.configs
            assert not any(config.value_omitted for config in page.configs)
            found.update({config.key: config.value.string_value for config in page.configs})
            pages, token = pages + 1, page.next_page_token
        assert pages > 1
        assert found == texts


def test_answer_for_the_longest_key_fits_into_the_clients_header_limit(
    own_server: Callable[..., ServerProcess], environment: str
) -> None:
    """Percent-encoded in `location`, a key can exceed the limit. The answer then has no location."""
    server = own_server(MAX_KEY_CHARACTERS="4096")
    with server.channel() as channel:
        configs = config_pb2_grpc.ConfigServiceStub(channel)
        for characters, has_location in ((512, True), (4096, False)):
            request = config_pb2.CreateConfigRequest(
                key="\N{GRINNING FACE}" * characters, environment=environment, value=value(1)
            )
            answer, call = configs.CreateConfig.with_call(request)
            assert answer.config.version == 1
            assert ("location" in dict(call.trailing_metadata())) == has_location


def test_message_over_max_request_bytes_is_resource_exhausted(
    large: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    request = config_pb2.GetConfigRequest(key="x" * (REQUEST_BYTES + 1), environment=environment)
    assert refused(lambda: large.GetConfig(request, timeout=60)).code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_max_request_bytes_holds_while_a_message_is_decompressed(own_server: Callable[..., ServerProcess]) -> None:
    """Ten gzip bombs at once, 60 KiB each and 60 MiB decompressed, once took the server to 1.3 GB.

    The gateway sends compressed messages to the engine that counts while it decompresses.
    """
    server = own_server(MAX_REQUEST_BYTES=str(1 << 20))
    before = server.peak_memory_bytes()
    with server.channel(max_send_message_length=-1) as channel:
        configs = config_pb2_grpc.ConfigServiceStub(channel)
        get: Any = channel.unary_unary(
            f"{COUNTING_PREFIX}/configsvc.v1.ConfigService/GetConfig",
            request_serializer=config_pb2.GetConfigRequest.SerializeToString,
            response_deserializer=config_pb2.GetConfigResponse.FromString,
        )
        bomb = config_pb2.GetConfigRequest(key="x" * (60 << 20), environment="e")
        calls = [get.future(bomb, timeout=60, compression=grpc.Compression.Gzip) for _ in range(10)]
        assert {call.code() for call in calls} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        # A message within the limit is accepted, compressed or not.
        assert put(configs, "e", "k", "x" * 500_000).revision
        fits = config_pb2.GetConfigRequest(key="k", environment="e")
        assert get(fits, compression=grpc.Compression.Gzip).config.version == 1
    assert server.peak_memory_bytes() - before < 100 << 20


PINGS = {"keepalive_time_ms": 50, "http2.max_pings_without_data": 0, "keepalive_timeout_ms": 20_000}


def seconds_until_disconnected() -> float:
    """After how long a server with gRPC's defaults disconnects a client that pings like `PINGS`."""
    held = threading.Event()

    def hold(request: bytes, context: Any) -> Iterator[bytes]:
        yield b""
        held.wait(30)

    handlers: Any = {"Hold": grpc.unary_stream_rpc_method_handler(hold)}
    server = grpc.server(ThreadPoolExecutor(1), handlers=[grpc.method_handlers_generic_handler("test.Idle", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    began = time.monotonic()
    options = [(f"grpc.{name}", number) for name, number in PINGS.items()]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        hold_on: Any = channel.unary_stream("/test.Idle/Hold")
        found = refused(lambda: hold_on(b""))
    held.set()
    server.stop(0).wait()
    assert found.code == grpc.StatusCode.UNAVAILABLE
    return time.monotonic() - began


def test_idle_watch_of_a_client_that_pings_is_not_disconnected(server: ServerProcess, environment: str) -> None:
    """Clients may ping every 10 s. This one pings 200 times as often, for twice as long as gRPC's defaults allow."""
    default_seconds = seconds_until_disconnected()
    with server.channel(**PINGS) as channel:
        configs = config_pb2_grpc.ConfigServiceStub(channel)
        with ResponseStream(configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment))) as stream:
            assert stream.take().HasField("synced")
            ended = threading.Event()
            assert stream.call.add_callback(ended.set)
            assert not ended.wait(2 * default_seconds), "the watch was disconnected"
            revision = put(configs, environment, "k", 1).revision
            assert stream.take().change.revision == revision


def test_too_large_list_is_refused_at_its_field_by_its_size(
    large: config_pb2_grpc.ConfigServiceStub, server: ServerProcess, environment: str
) -> None:
    """The size of the message is checked before the items: reading all items once blocked the loop for seconds."""
    many = Value(list_value=ListValue(values=[Value(number_value=1)] * (RESOURCE_BYTES // 11 + 1)))
    few = config_pb2.ConfigOperation(key="few", value=value(1))
    one = config_pb2.CreateConfigRequest(key="many", environment=environment, value=many)
    assert refused(lambda: large.CreateConfig(one)).fields == ["value"]
    changed = config_pb2.UpdateConfigRequest(key="many", environment=environment, value=many, allow_missing=True)
    assert refused(lambda: large.UpdateConfig(changed)).fields == ["value"]
    batch = config_pb2.BatchWriteConfigsRequest(
        environment=environment, operations=[few, config_pb2.ConfigOperation(key="many", value=many)]
    )
    assert refused(lambda: large.BatchWriteConfigs(batch)).fields == ["operations[1].value"]
    with server.channel(max_send_message_length=-1) as channel:
        changes = change_pb2_grpc.ChangeServiceStub(channel)
        applied = change_pb2.ApplyChangesRequest(operations=[change_pb2.ChangeOperation(update_config=changed)])
        assert refused(lambda: changes.ApplyChanges(applied)).fields == ["operations[0].update_config.value"]
    assert not large.ListConfigs(config_pb2.ListConfigsRequest(environment=environment)).configs
