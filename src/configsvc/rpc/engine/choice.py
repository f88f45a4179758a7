"""Which engine serves (GRPC_ENGINE)."""

from importlib.util import find_spec

from configsvc.rpc.engine.grpcio import GrpcioEngine
from configsvc.rpc.engine.port import Engine, EngineOptions


def open_engine(wanted: str, options: EngineOptions) -> Engine:
    """The engine that GRPC_ENGINE names. Where the library of the native one is missing, grpcio serves in its place."""
    if wanted == "native" and find_spec("pygrpc_native") is not None:
        # The library has no wheel for some platforms.
        from configsvc.rpc.engine.native import NativeEngine

        return NativeEngine(options)
    return GrpcioEngine(options)
