"""Requests that many tests send."""

from typing import Any

from configsvc_client.v1 import config_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from tests.rpc.server_process import PATIENCE_SECONDS


def value(json_value: Any) -> Value:
    """A JSON value as a protobuf Value."""
    return ParseDict(json_value, Value())


def put(stub: Any, environment: str, key: str, json_value: Any, **more: Any) -> Any:
    """Creates or updates a configuration."""
    return stub.UpdateConfig(
        config_pb2.UpdateConfigRequest(
            key=key, environment=environment, value=value(json_value), allow_missing=True, **more
        ),
        timeout=PATIENCE_SECONDS,
    )
