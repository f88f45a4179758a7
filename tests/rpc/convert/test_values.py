"""JSON values and times as messages."""

import json
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Any

import pytest
from configsvc_client.v1 import config_pb2
from google.protobuf.struct_pb2 import ListValue, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis.strategies import datetimes, timezones

from configsvc.domain.json_values import MISSING
from configsvc.domain.sizes import message_bytes
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from tests.domain.json_strategies import LISTS


def item_by_item(value: Any) -> Value:
    if isinstance(value, list):
        return Value(list_value=ListValue(values=[item_by_item(item) for item in value]))
    return convert.value_of(value)


@given(LISTS)
def test_list_is_converted_as_its_items_are(items: list[Any]) -> None:
    message = convert.value_of(items)
    assert message == item_by_item(items)
    assert message.SerializeToString(deterministic=True) == item_by_item(items).SerializeToString(deterministic=True)
    assert json.dumps(convert.json_of(message)) == json.dumps([convert.json_of(item_by_item(item)) for item in items])
    assert message_bytes(items) == message.ByteSize()


def test_value_that_is_not_set_is_missing_and_null_is_a_value() -> None:
    empty = config_pb2.CreateConfigRequest(value=Value())
    assert empty.HasField("value")
    assert convert.json_or_missing(empty) is MISSING
    assert convert.json_or_missing(config_pb2.CreateConfigRequest()) is MISSING
    assert convert.json_or_missing(config_pb2.CreateConfigRequest(value=Value(null_value=0))) is None  # type: ignore[arg-type]
    assert convert.json_or_missing(config_pb2.CreateConfigRequest(value=Value(bool_value=False))) is False


def test_list_that_is_too_large_is_refused_by_its_path() -> None:
    request = config_pb2.CreateConfigRequest(value=convert.value_of([0.5] * 400_000))
    with pytest.raises(InvalidInput) as refused:
        convert.json_or_missing(request, "operations[3].value")
    assert [violation.field for violation in refused.value.violations] == ["operations[3].value"]


def test_time_comes_back_from_its_timestamp() -> None:
    at = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert convert.time_of(convert.timestamp(at), "from_time") == at


def test_time_out_of_range_is_refused_by_its_field() -> None:
    with pytest.raises(InvalidInput) as refused:
        convert.time_of(Timestamp(seconds=2**60), "from_time")
    assert [violation.field for violation in refused.value.violations] == ["from_time"]


@given(datetimes(timezones=timezones()).filter(lambda at: MINYEAR < at.year < MAXYEAR))
def test_timestamp_is_that_of_the_time(at: datetime) -> None:
    expected = Timestamp()
    expected.FromDatetime(at.astimezone(UTC).replace(tzinfo=None))
    assert convert.timestamp(at) == expected
    assert convert.time_of(convert.timestamp(at), "at") == at.astimezone(UTC)
