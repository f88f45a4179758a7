"""What surrounds a call besides the access log, one concern a test."""

from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2

from configsvc.rpc.interceptors.call import Call, Method
from configsvc.rpc.interceptors.messages import unary_response
from configsvc.rpc.responses.response_metadata import add_metadata
from tests.app.replica import Replica, config
from tests.rpc.interceptors.conftest import Get
from tests.rpc.local_watches import put
from tests.rpc.refusals import refusal

GET_CONFIG = "/configsvc.v1.ConfigService/GetConfig"


async def trailers(call: Any) -> dict[str, Any]:
    return dict(await call.trailing_metadata())


async def test_response_has_request_id_revision_and_history(get: Get, replica: Replica) -> None:
    await put(replica, config("k"), "1")
    call = get(metadata=(("x-request-id", "mine"),))
    await call
    assert await trailers(call) == {"x-request-id": "mine", "x-revision": "1", "x-history": replica.tail.history}


async def test_failed_call_has_the_same_metadata_in_its_trailers(get: Get, replica: Replica) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await get("missing", metadata=(("x-request-id", "mine"),))
    error = refusal(raised.value)
    assert (error.code, error.info.reason) == (grpc.StatusCode.NOT_FOUND, "CONFIG_NOT_FOUND")
    assert error.trailing["x-request-id"] == "mine"
    assert error.trailing["x-history"] == replica.tail.history


async def test_unexpected_error_is_internal_and_its_text_stays_here(get: Get, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await get("broken")
    error = refusal(raised.value)
    assert (error.code, error.info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "hunter2" not in f"{error.message}{error.trailing}"
    (cause,) = [record.exc_info for record in caplog.records if record.exc_info]
    assert isinstance(cause[1], KeyError)


class RestContext:
    """A call from the gateway. grpc.aio's client drops the message of an OK status, so no client can show it."""

    def __init__(self) -> None:
        self.details = ""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-configsvc-rest", "1"),)

    def peer(self) -> str:
        return ""

    def set_details(self, details: str) -> None:
        self.details = details


async def test_rest_call_gets_the_resource_alone_and_metadata_in_the_status() -> None:
    async def handler(call: Call, request: Any) -> config_pb2.GetConfigResponse:
        add_metadata(("etag", '"1-a"'))
        return config_pb2.GetConfigResponse(config=config_pb2.Config(key="k"), revision=7)

    method = Method(GET_CONFIG, config_pb2.GetConfigRequest.FromString, has_request_stream=False)
    context: Any = RestContext()
    response = await unary_response(lambda: (("x-revision", "7"),))(method, handler)(Call(method, context), b"")
    assert response == config_pb2.Config(key="k")
    assert context.details == 'x-revision=7 etag="1-a"'


async def test_answer_older_than_the_wanted_revision_is_refused(channel: grpc.aio.Channel, replica: Replica) -> None:
    """A read may be answered from a copy while the store is down."""
    await put(replica, config("k"), "1")
    call: Any = channel.unary_unary(GET_CONFIG)
    await call(config_pb2.GetConfigRequest(key="1", min_revision=1).SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(config_pb2.GetConfigRequest(key="0", min_revision=1).SerializeToString())
    error = refusal(raised.value)
    assert (error.code, error.info.reason) == (grpc.StatusCode.UNAVAILABLE, "REVISION_NOT_REACHED")
    assert dict(error.info.metadata) == {"applied": "0", "required": "1"}


async def test_call_with_another_history_is_refused(get: Get, replica: Replica) -> None:
    await get(metadata=(("x-history", replica.tail.history),))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await get(metadata=(("x-history", "another"),))
    assert refusal(raised.value).info.reason == "HISTORY_CHANGED"
