"""Sizes are measured to the byte, and messages are filled up to their limit."""

from typing import Any

import pytest
from configsvc_client.evaluation import Context, Flag, FlagSet
from google.protobuf.struct_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from configsvc.domain import sizes
from configsvc.domain.pages import page_of
from configsvc.domain.records import Kind
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.convert.message_budget import ITEM_OVERHEAD_BYTES, Detail, MessageBudget, fit_item, fit_page
from tests.rpc.strategies import DEEP, JSON


@given(JSON | DEEP | st.lists(st.integers(0, 9), max_size=2_000) | st.text(max_size=300))
def test_measured_size_of_a_value_is_the_size_of_its_message(json: Any) -> None:
    assert sizes.message_bytes(json) == convert.value_of(json).ByteSize()


@given(JSON | DEEP)
def test_value_short_enough_to_skip_measuring_is_never_too_large(json: Any) -> None:
    """`MEASURED_CHARACTERS` relies on this."""
    characters = max(len(str(json)), 1)
    assert sizes.message_bytes(json) <= 11 + 6 * characters


def test_resource_too_large_to_send_is_refused_at_its_largest_member() -> None:
    body = {"value": [1] * 370_000, "description": "why"}
    with pytest.raises(InvalidInput) as raised:
        sizes.check_sendable(Kind.CONFIG, body)
    assert [violation.field for violation in raised.value.violations] == ["value"]
    sizes.check_sendable(Kind.CONFIG, {"value": [1] * 369_000})


def texts(text: str, detail: Detail) -> Value:
    return Value(string_value=text if detail.includes_after else "")


@given(st.lists(st.integers(0, 60), max_size=20), st.integers(70, 200))
def test_page_ends_before_the_first_item_that_does_not_fit_and_no_item_is_lost(
    lengths: list[int], max_bytes: int
) -> None:
    items, seen = ["x" * length for length in lengths], []
    while items:
        taken = MessageBudget(max_bytes).fill(texts, items)
        assert taken, "a page has at least one item"
        used = sum(message.ByteSize() + ITEM_OVERHEAD_BYTES for message in taken)
        assert used <= max_bytes
        if len(taken) < len(items):
            assert used + texts(items[len(taken)], Detail.FULL).ByteSize() + ITEM_OVERHEAD_BYTES > max_bytes
        seen += [message.string_value for message in taken]
        items = items[len(taken) :]
    assert [len(text) for text in seen] == lengths


def test_item_too_large_for_a_page_has_less_detail() -> None:
    (message,) = MessageBudget(50).fill(texts, ["x" * 100, "y"])[:1]
    assert message.string_value == ""


def test_cut_page_continues_after_its_last_item() -> None:
    items = ["x" * 3_000_000, "y" * 2_000_000, "z"]
    page = page_of(("q",), items, token="", more=False, revision=1, history="h", cursor=lambda item: (item[0],))
    messages, token = fit_page(page, texts)
    assert (len(messages), token) == (1, page.token_after(items[0]))
    rest = page_of(("q",), items[1:], token="", more=False, revision=1, history="h", cursor=lambda item: (item[0],))
    assert fit_page(rest, texts)[1] == ""


def test_explanation_that_does_not_fit_is_omitted() -> None:
    flag = Flag.from_json({"name": "f", "environment": "e", "enabled": True, "rollout_percentage": 50})
    outcome = FlagSet("e", [flag]).evaluate("f", Context("u"), explain=True)

    def to_message(outcome: Any, detail: Detail) -> Any:
        return convert.evaluation(outcome, "u", detail)

    whole = fit_item(to_message, outcome)
    assert whole.HasField("explanation")
    assert not whole.explanation_omitted
    without = fit_item(to_message, outcome, max_bytes=whole.ByteSize())
    assert (without.HasField("explanation"), without.explanation_omitted) == (False, True)
    assert (without.variant, without.value) == (whole.variant, whole.value)
