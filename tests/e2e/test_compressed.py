"""Compressed messages through the gateway: limits hold after decompression, whatever engine a worker has."""

from pathlib import Path
from typing import Any

import grpc
import psutil
from configsvc_client.v1 import config_pb2, config_pb2_grpc, health_pb2, health_pb2_grpc
from grpc_health.v1 import health_pb2 as library_health_pb2
from grpc_health.v1 import health_pb2_grpc as library_health_pb2_grpc

from tests.e2e.conftest import Running

MIB = 1 << 20


def peak_bytes(service: Running) -> int:
    """The most memory that the largest process of the service has had."""
    processes = psutil.Process(service.process.pid).children(recursive=True)
    statuses = [Path(f"/proc/{process.pid}/status").read_text() for process in processes]
    return max(int(status.partition("VmHWM:")[2].split()[0]) for status in statuses) << 10


def test_bomb_is_refused_before_it_is_in_memory(service: Running) -> None:
    """A GetConfig, a watch and a health check of 60 KiB each, 60 MiB decompressed."""
    options = [("grpc.max_send_message_length", -1)]
    before = peak_bytes(service)
    with grpc.insecure_channel(service.target, options, grpc.Compression.Gzip) as channel:
        configs: Any = config_pb2_grpc.ConfigServiceStub(channel)
        checks: Any = library_health_pb2_grpc.HealthStub(channel)
        text = "x" * (60 * MIB)
        calls = [configs.GetConfig.future(config_pb2.GetConfigRequest(key=text), timeout=60) for _ in range(5)]
        calls.append(configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=text), timeout=60))
        calls.append(checks.Check.future(library_health_pb2.HealthCheckRequest(service=text), timeout=60))
        assert [call.code() for call in calls] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * len(calls)
        live: Any = health_pb2_grpc.HealthServiceStub(channel)
        assert live.GetLiveness(health_pb2.GetLivenessRequest(), timeout=10)
    assert peak_bytes(service) - before < 100 * MIB


def test_too_large_request_for_a_stream_is_refused(service: Running) -> None:
    """The gateway buffers it only up to its limit."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(service.target, options) as channel:
        configs: Any = config_pb2_grpc.ConfigServiceStub(channel)
        call = configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment="x" * (60 * MIB)), timeout=60)
        assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_compressed_watch_is_served(service: Running, environment: str) -> None:
    with grpc.insecure_channel(service.target, compression=grpc.Compression.Gzip) as channel:
        configs: Any = config_pb2_grpc.ConfigServiceStub(channel)
        call = configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment), timeout=60)
        assert next(call).HasField("synced")
        call.cancel()
