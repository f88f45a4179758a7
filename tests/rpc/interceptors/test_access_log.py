"""The access log: one line for each call at its end."""

import logging
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2

CONFIGS, HEALTH = "/configsvc.v1.ConfigService", "/configsvc.v1.HealthService"


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="access")


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
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, name: str, key: str, code: str, reason: str
) -> None:
    is_stream = name == "WatchConfigs"
    multi_callable: Any = (channel.unary_stream if is_stream else channel.unary_unary)(f"{CONFIGS}/{name}")
    metadata = (("x-request-id", "mine"), ("x-actor", "ann"))
    request = config_pb2.GetConfigRequest(key=key).SerializeToString()
    assert await end(multi_callable(request, metadata=metadata), is_stream=is_stream) == code
    (line,) = [vars(record) for record in caplog.records if record.name == "access"]
    assert (line["method"], line["code"], line.get("reason", "")) == (f"{CONFIGS}/{name}", code, reason)
    assert (line["message"], line["request_id"], line["actor"]) == ("call", "mine", "ann")
    assert line["duration_ms"] >= 0
    assert line["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(("key", "codes"), [("1", []), ("missing", ["NOT_FOUND"])])
async def test_health_check_is_logged_only_if_it_fails(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, key: str, codes: list[str]
) -> None:
    for name in ("GetConfig", "WatchConfigs"):
        is_stream = name == "WatchConfigs"
        multi_callable: Any = (channel.unary_stream if is_stream else channel.unary_unary)(f"{HEALTH}/{name}")
        await end(multi_callable(config_pb2.GetConfigRequest(key=key).SerializeToString()), is_stream=is_stream)
    assert [vars(record)["code"] for record in caplog.records if record.name == "access"] == codes * 2


async def test_unknown_method_is_logged(channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    multi_callable: Any = channel.unary_unary(f"{CONFIGS}/Forget")
    assert await end(multi_callable(b""), is_stream=False) == "UNIMPLEMENTED"
    (line,) = [vars(record) for record in caplog.records if record.name == "access"]
    assert (line["method"], line["code"]) == (f"{CONFIGS}/Forget", "UNIMPLEMENTED")
