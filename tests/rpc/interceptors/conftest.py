"""A server in this process with methods for tests, behind the interceptor."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from configsvc_client.v1.config_pb2 import Config, GetConfigRequest, GetConfigResponse

from configsvc.errors import NotFound
from configsvc.rpc.interceptors import AccessLog, CallInterceptor
from configsvc.rpc.services import CONFIGS, HEALTH, ServicerHandlers
from tests.app.replica import Replica
from tests.rpc.engines import ENGINES, channel_to

DEADLINE_SECONDS = 30.0


async def answer(request: GetConfigRequest, context: Any) -> GetConfigResponse:
    """The response is of the revision in the request's key. `missing` is not found, `broken` is a bug."""
    if request.key == "missing":
        raise NotFound("no such thing", "CONFIG_NOT_FOUND")
    if request.key == "broken":
        raise KeyError("hunter2")
    return GetConfigResponse(config=Config(key=request.key), revision=int(request.key or "0"))


async def watch(request: GetConfigRequest, context: Any) -> AsyncIterator[GetConfigResponse]:
    """One message, and then what `answer` does."""
    yield GetConfigResponse()
    yield await answer(request, context)


def method(create: Callable[..., Any], behaviour: Callable[..., Any]) -> Any:
    return create(
        behaviour,
        request_deserializer=GetConfigRequest.FromString,
        response_serializer=GetConfigResponse.SerializeToString,
    )


@pytest.fixture
def access_log(request: pytest.FixtureRequest) -> AccessLog:
    """Writes all lines, unless a test has other parameters for it."""
    return AccessLog(**getattr(request, "param", {"writes_all": True, "slow_seconds": DEADLINE_SECONDS}))


@pytest.fixture(params=ENGINES)
async def channel(
    request: pytest.FixtureRequest, replica: Replica, access_log: AccessLog
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to two services with the names of this service's own, and the methods above."""
    interceptor = CallInterceptor(tail=replica.tail, default_deadline_seconds=DEADLINE_SECONDS, access_log=access_log)
    handlers = ServicerHandlers()
    methods = {
        "GetConfig": method(grpc.unary_unary_rpc_method_handler, answer),
        "WatchConfigs": method(grpc.unary_stream_rpc_method_handler, watch),
    }
    for service in (CONFIGS, HEALTH):
        handlers.add_registered_method_handlers(service.descriptor.full_name, methods)
    async with channel_to(request.param, interceptor, handlers) as opened:
        yield opened


Get = Callable[..., Any]


@pytest.fixture
def get(channel: grpc.aio.Channel) -> Get:
    """A unary call of ConfigService."""
    call: Any = channel.unary_unary(
        "/configsvc.v1.ConfigService/GetConfig",
        request_serializer=GetConfigRequest.SerializeToString,
        response_deserializer=GetConfigResponse.FromString,
    )
    return lambda key="1", **options: call(GetConfigRequest(key=key), **options)
