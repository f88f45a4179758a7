"""The gRPC engines, behind one port (`port.py`), and their choice."""

from configsvc.rpc.engine.choice import open_engine
from configsvc.rpc.engine.port import Engine, EngineMethod, EngineOptions

__all__ = ["Engine", "EngineMethod", "EngineOptions", "open_engine"]
