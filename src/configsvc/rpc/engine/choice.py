"""Which engine serves (GRPC_ENGINE)."""

from collections.abc import Sequence
from importlib.util import find_spec

from configsvc.rpc.engine.grpcio import GrpcioEngine
from configsvc.rpc.engine.port import Engine, EngineOptions


def open_engine(wanted: str, listen: Sequence[str], options: EngineOptions) -> Engine:
    """The engine that GRPC_ENGINE names. Empty: the native one if only the gateway can call, through unix sockets.

    The native engine is young and relies on limits of the gateway, so it faces a network only if it is told to. Where its
    library is missing, grpcio serves in its place.
    """
    is_behind_gateway = all(address.startswith("unix:") for address in listen)
    if (wanted or ("native" if is_behind_gateway else "grpcio")) == "native" and find_spec("pygrpc_native") is not None:
        # The library has no wheel for some platforms.
        from configsvc.rpc.engine.native import NativeEngine

        return NativeEngine(options)
    return GrpcioEngine(options)
