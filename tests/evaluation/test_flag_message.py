"""Flags as the service sends them: protobuf messages."""

import importlib
import sys

import pytest
from configsvc_client.evaluation import Flag, InvalidFlag, RegexUnavailable
from configsvc_client.v1 import config_pb2, flag_pb2
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.evaluation.samples import condition, flag_json, rule
from tests.evaluation.test_flag_json import FULL

NOT_IN_PROTO = ("incarnation",)


def message_of(definition: dict[str, object]) -> flag_pb2.Flag:
    shown = {name: member for name, member in definition.items() if name not in NOT_IN_PROTO}
    return ParseDict(shown, flag_pb2.Flag())


def test_message_and_json_give_the_same_flag() -> None:
    definition = {name: member for name, member in FULL.items() if name not in NOT_IN_PROTO}
    message = message_of(definition)
    message.etag, message.revision, message.updated_by = "1-1", 7, "ana"
    message.updated_at.GetCurrentTime()
    message = flag_pb2.Flag.FromString(message.SerializeToString())
    assert Flag.from_proto(message) == Flag.from_json(definition)


def test_json_of_a_message_is_read_with_the_names_of_the_proto_only() -> None:
    message = message_of(flag_json(rollout_percentage=50))
    with pytest.raises(InvalidFlag, match="rollout_percentage"):
        Flag.from_json(MessageToDict(message))
    assert Flag.from_json(MessageToDict(message, preserving_proto_field_name=True)) == Flag.from_proto(message)


def test_fields_of_a_newer_server_are_ignored() -> None:
    message = message_of(flag_json(rollout_percentage=50))
    # An unknown field with number 1000.
    newer = flag_pb2.Flag.FromString(message.SerializeToString() + bytes([0xC2, 0x3E, 1, 65]))
    assert Flag.from_proto(newer) == Flag.from_proto(message)


def test_message_without_its_definition_is_refused() -> None:
    with pytest.raises(InvalidFlag, match="definition_omitted"):
        Flag.from_proto(flag_pb2.Flag(name="f", environment="test", definition_omitted=True))


@pytest.mark.parametrize("other", [None, {}, "f", 1])
def test_other_values_than_messages_are_a_type_error(other: object) -> None:
    with pytest.raises(TypeError, match=r"must be a configsvc\.v1\.Flag message"):
        Flag.from_proto(other)


def test_another_message_is_refused() -> None:
    with pytest.raises(InvalidFlag):
        Flag.from_proto(config_pb2.Config(key="f", environment="test"))


def test_without_re2_only_flags_that_need_it_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    # With None in its place, an import raises ImportError, as if it were not installed.
    monkeypatch.setitem(sys.modules, "re2", None)
    importlib.import_module("configsvc_client.evaluation")
    assert Flag.from_json(flag_json(rules=[rule(condition("plan", "equals", "pro"), variant="on")]))
    with pytest.raises(RegexUnavailable, match=r"pip install 'configsvc-client\[regex\]'"):
        Flag.from_json(flag_json(rules=[rule(condition("plan", "matches", "^p"), variant="on")]))
