"""Servers in this process on one gRPC engine."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc

from configsvc.rpc.engine import Engine, EngineMethod, EngineOptions
from configsvc.rpc.engine.grpcio import GrpcioEngine
from configsvc.rpc.engine.native import NativeEngine
from configsvc.rpc.interceptors import CallInterceptor
from configsvc.rpc.interceptors.access_log import log_unknown_method
from configsvc.rpc.services import ServicerHandlers

ENGINES: dict[str, Callable[[EngineOptions], Engine]] = {"grpcio": GrpcioEngine, "native": NativeEngine}
MAX_REQUEST_BYTES = 8 << 20


@asynccontextmanager
async def serving(
    kind: str, methods: Sequence[EngineMethod], max_request_bytes: int = MAX_REQUEST_BYTES
) -> AsyncIterator[str]:
    """The address at which an engine of this kind serves the methods."""
    engine = ENGINES[kind](EngineOptions(max_request_bytes, log_unknown_method))
    (port,) = await engine.start(methods, ["127.0.0.1:0"])
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await engine.stop(0)


@asynccontextmanager
async def channel_to(
    kind: str, interceptor: CallInterceptor, handlers: ServicerHandlers
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the servicers' methods behind the interceptor."""
    methods = [interceptor.surround(path, handler) for path, handler in handlers.by_path.items()]
    async with serving(kind, methods) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel
