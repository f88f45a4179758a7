"""The access log: lines for calls at their end. `all` gives each call one; `sampled` leaves out quick successful reads."""

import json
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2

from configsvc.logs import JsonFormatter
from configsvc.rpc.interceptors.access_log import WRITES, AccessLog
from configsvc.rpc.services import SERVICES

CONFIGS, HEALTH = "/configsvc.v1.ConfigService", "/configsvc.v1.HealthService"


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="access")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    formatter = JsonFormatter()
    return lambda: [json.loads(formatter.format(record)) for record in caplog.records if record.name == "access"]


async def end(call: Any, *, is_stream: bool) -> str:
    """Reads a call to its end, and returns the name of its code."""
    try:
        if is_stream:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize(
    ("key", "code", "reason"),
    [("1", "OK", ""), ("missing", "NOT_FOUND", "CONFIG_NOT_FOUND"), ("broken", "INTERNAL", "INTERNAL")],
)
@pytest.mark.parametrize("name", ["GetConfig", "WatchConfigs"])
async def test_call_has_one_line_however_it_ends(
    channel: grpc.aio.Channel, lines: Callable[[], list[dict[str, Any]]], name: str, key: str, code: str, reason: str
) -> None:
    is_stream = name == "WatchConfigs"
    multi_callable: Any = (channel.unary_stream if is_stream else channel.unary_unary)(f"{CONFIGS}/{name}")
    metadata = (("x-request-id", "mine"), ("x-actor", "ann"))
    request = config_pb2.GetConfigRequest(key=key).SerializeToString()
    assert await end(multi_callable(request, metadata=metadata), is_stream=is_stream) == code
    (line,) = lines()
    assert (line["method"], line["code"], line.get("reason", "")) == (f"{CONFIGS}/{name}", code, reason)
    assert (line["event"], line["request_id"], line["actor"]) == ("call", "mine", "ann")
    assert line["duration_ms"] >= 0
    assert line["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(("key", "codes"), [("1", []), ("missing", ["NOT_FOUND"])])
async def test_health_check_is_logged_only_if_it_fails(
    channel: grpc.aio.Channel, lines: Callable[[], list[dict[str, Any]]], key: str, codes: list[str]
) -> None:
    for name in ("GetConfig", "WatchConfigs"):
        is_stream = name == "WatchConfigs"
        multi_callable: Any = (channel.unary_stream if is_stream else channel.unary_unary)(f"{HEALTH}/{name}")
        await end(multi_callable(config_pb2.GetConfigRequest(key=key).SerializeToString()), is_stream=is_stream)
    assert [line["code"] for line in lines()] == codes * 2


async def test_unknown_method_is_logged(channel: grpc.aio.Channel, lines: Callable[[], list[dict[str, Any]]]) -> None:
    multi_callable: Any = channel.unary_unary(f"{CONFIGS}/Forget")
    assert await end(multi_callable(b""), is_stream=False) == "UNIMPLEMENTED"
    (line,) = lines()
    assert (line["method"], line["code"]) == (f"{CONFIGS}/Forget", "UNIMPLEMENTED")


def call(channel: grpc.aio.Channel, key: str) -> Any:
    multi_callable: Any = channel.unary_unary(f"{CONFIGS}/GetConfig")
    return multi_callable(config_pb2.GetConfigRequest(key=key).SerializeToString())


@pytest.mark.parametrize("access_log", [{"writes_all": False, "slow_seconds": 3_600}], indirect=True)
async def test_reads_left_out_are_counted_in_the_next_line_of_their_method(
    channel: grpc.aio.Channel, lines: Callable[[], list[dict[str, Any]]], access_log: AccessLog
) -> None:
    for _ in range(4):
        await end(call(channel, "1"), is_stream=False)
    await end(call(channel, "missing"), is_stream=False)
    # The clock is real: each second has a line, however slow the machine is.
    written = lines()
    assert len(written) + sum(line.get("skipped", 0) for line in written) == 5
    assert ("skipped" in written[0], written[0]["code"], written[-1]["code"]) == (False, "OK", "NOT_FOUND")


@pytest.mark.parametrize("access_log", [{"writes_all": False, "slow_seconds": 0}], indirect=True)
async def test_slow_reads_and_streams_have_a_line_each(
    channel: grpc.aio.Channel, lines: Callable[[], list[dict[str, Any]]], access_log: AccessLog
) -> None:
    watch: Any = channel.unary_stream(f"{CONFIGS}/WatchConfigs")
    for _ in range(3):
        await end(call(channel, "1"), is_stream=False)
        await end(watch(config_pb2.GetConfigRequest(key="1").SerializeToString()), is_stream=True)
    assert [line["code"] for line in lines()] == ["OK"] * 6


def test_one_line_a_second_and_method_is_due(lines: Callable[[], list[dict[str, Any]]]) -> None:
    log, other = (AccessLog(writes_all=False, slow_seconds=1).of(path) for path in ("/s/Get", "/s/List"))

    def ends(now: float) -> None:
        if log.is_due(now):
            log.write(now, started=now - 0.25, request_id="r", metadata={"x-actor": 'a"nn'}, peer="p")
        else:
            log.skip()

    for now in (100.0, 100.2, 100.9, 101.0, 101.5, 109.0):
        ends(now)
    assert other.is_due(100.9)
    assert [(line.get("skipped"), line["duration_ms"], line["actor"]) for line in lines()] == [
        (None, 250.0, 'a"nn'),
        (2, 250.0, 'a"nn'),
        (1, 250.0, 'a"nn'),
    ]


def test_every_write_is_known_as_one() -> None:
    """A write answers with the revision that it made. These methods make none, or aren't about the log."""
    posts = {"BulkGetConfigs", "EvaluateFlag", "BatchEvaluateFlags", "Heartbeat", "KeepAlive", "CheckServiceHealth"}
    reads = ("Get", "List", "Watch", "Diff", "Discover")
    names = {method.name for service in SERVICES for method in service.descriptor.methods}
    writes = {name for name in names - posts if not name.startswith(reads)}
    assert {path.rpartition("/")[2] for path in WRITES} == writes
    assert all(AccessLog(writes_all=False, slow_seconds=1).sample_of(path) is None for path in WRITES)


def test_nothing_is_written_below_the_level(
    caplog: pytest.LogCaptureFixture, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    caplog.set_level(logging.WARNING, logger="access")
    log = AccessLog(writes_all=True, slow_seconds=1).of("/s/Get")
    log.write(1.0, started=0.5, request_id="r", metadata={}, peer="p")
    assert lines() == []
