"""A call without a deadline gets the default deadline; its end is reported like any other error."""

from pathlib import Path

import grpc
import pytest
from configsvc_client.v1 import config_pb2
from google.protobuf.struct_pb2 import Value
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.engines.ports import Port
from tests.replicas.fleet import Replica


def test_call_past_its_deadline_fails_with_a_reason(tmp_path: Path) -> None:
    # Shorter than any commit.
    settings = {"DEFAULT_DEADLINE_SECONDS": "0.00001"}
    with Port() as port:
        replica = Replica("late", tmp_path, settings, port.number)
        try:
            replica.started()
            request = config_pb2.CreateConfigRequest(key="k", environment="test", value=Value(number_value=1))
            with pytest.raises(grpc.RpcError) as late:
                replica.configs.CreateConfig(request)
        finally:
            replica.close()
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    status = rpc_status.from_call(late.value)  # type: ignore[arg-type]
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert info.reason == "DEADLINE_EXCEEDED"
