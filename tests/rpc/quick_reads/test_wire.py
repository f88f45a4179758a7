"""Fields that are encoded by hand are those that protobuf encodes."""

from configsvc_client.v1 import config_pb2
from hypothesis import given
from hypothesis import strategies as st

from configsvc.rpc.quick_reads import wire

RESPONSE = config_pb2.GetConfigResponse.DESCRIPTOR


@given(st.integers(1, 2**63 - 1))
def test_number(number: int) -> None:
    encoded = wire.number_tag(RESPONSE, "revision") + wire.varint(number)
    assert encoded == config_pb2.GetConfigResponse(revision=number).SerializeToString()


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(0, 40_000).map(lambda size: "x" * size))
def test_text_and_message(text: str) -> None:
    config = config_pb2.Config(key=text)
    encoded = wire.text(wire.delimited_tag(config_pb2.Config.DESCRIPTOR, "key"), text)
    assert encoded == config.SerializeToString()
    field = wire.delimited(wire.delimited_tag(RESPONSE, "config"), encoded)
    assert field == config_pb2.GetConfigResponse(config=config).SerializeToString()
    assert field[wire.contents_start(field) :] == encoded
