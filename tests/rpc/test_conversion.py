"""Conversions of values: the same as item by item, and beside the event loop if they are large."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from configsvc_client.v1 import config_pb2
from google.protobuf.struct_pb2 import ListValue, Value
from hypothesis import given
from hypothesis import strategies as st

from configsvc.clock import SystemClock
from configsvc.domain.json_values import LARGEST_EXACT_INTEGER, changed_members, differences, problem
from configsvc.domain.records import Change
from configsvc.domain.sizes import message_bytes
from configsvc.rpc import convert
from configsvc.rpc.offload import LARGE_BYTES, offload
from configsvc.rpc.responses.message_budget import Detail
from configsvc.rpc.responses.watch_streams import WatchStreams
from tests.app.replica import config, open_replica, open_storage
from tests.rpc.local_watches import ALL, open_hub, put, snapshot

NUMBERS = st.one_of(
    st.integers(-LARGEST_EXACT_INTEGER, LARGEST_EXACT_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 0.0, -0.0, 1, 1.0, True, False, None, "", "1", 2**53, 1e16, 1e300]),
)
# Long enough for the quick way, with and without an item that it can't take.
LISTS = st.builds(lambda items, times, last: [*items * times, *last], st.lists(NUMBERS, min_size=1, max_size=8),
                  st.integers(1, 40), st.lists(NUMBERS, max_size=1))  # fmt: skip
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=8), LISTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def one_by_one(value: Any) -> Value:
    if isinstance(value, list):
        return Value(list_value=ListValue(values=[one_by_one(item) for item in value]))
    return convert.value_of(value)


@given(LISTS)
def test_a_list_is_converted_as_its_items_are(items: list[Any]) -> None:
    message = convert.value_of(items)
    assert message == one_by_one(items)
    assert message.SerializeToString(deterministic=True) == one_by_one(items).SerializeToString(deterministic=True)
    assert json.dumps(convert.json_of(message)) == json.dumps([convert.json_of(one_by_one(item)) for item in items])
    assert message_bytes(items) == message.ByteSize()


def changed(text: str) -> str:
    return text.replace("0", "7")


@given(VALUES, VALUES)
def test_values_are_equal_if_their_text_is(one: Any, other: Any) -> None:
    for before, after in (
        (one, other),
        (one, json.loads(json.dumps(one))),
        (one, json.loads(changed(json.dumps(one)))),
    ):
        same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
        assert (changed_members({"value": before}, {"value": after}) == ()) == same
        assert (differences(before, after) == ()) == same


@pytest.mark.parametrize("bad", [2**53, -(2**53), 1e16, 1e300, 2**53 * 1.0, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("shape", ["{}", "[[1, {}]]", "[{{'a': {}}}]"])
def test_a_number_that_clients_round_is_found_wherever_it_is(bad: float, shape: str) -> None:
    wrapped = {"{}": bad, "[[1, {}]]": [[1, bad]], "[{{'a': {}}}]": [{"a": bad}]}[shape]
    assert problem(wrapped, 10_000).startswith("must not have")


@pytest.mark.parametrize("good", ["1234567890123456789", "1e+5", "NaN", 2**53 - 1, 1.5e-7, 123456789012345.6])
def test_what_only_looks_like_it_is_taken(good: Any) -> None:
    assert problem([good], 10_000) == ""


async def test_large_conversions_leave_the_loop_to_others() -> None:
    here = threading.get_ident()
    assert await offload(LARGE_BYTES - 1, threading.get_ident) == here
    assert await offload(LARGE_BYTES, threading.get_ident) != here


async def test_a_large_change_is_encoded_once_and_beside_the_loop(tmp_path: Path) -> None:
    threads: list[int] = []

    def change(found: Change, detail: Detail) -> Any:
        threads.append(threading.get_ident())
        return convert.config_change(found, detail)

    async with open_storage(tmp_path) as storage, open_replica(storage, SystemClock()) as replica:
        hub = open_hub(replica)
        watches = WatchStreams(
            hub, response=config_pb2.WatchConfigsResponse, snapshot=snapshot, item=convert.config, change=change
        )
        streams = [watches.stream(ALL, None) for _ in range(10)]
        for stream in streams:
            assert (await anext(stream)).WhichOneof("event") == "synced"
        await put(replica, config("a"), "x" * LARGE_BYTES)
        messages = await asyncio.gather(*(anext(stream) for stream in streams))
        assert len(set(map(id, messages))) == 1
        assert (len(threads), threads[0] != threading.get_ident()) == (1, True)
        for stream in streams:
            await stream.aclose()
        hub.shutdown()
