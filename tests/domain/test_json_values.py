"""JSON values: which numbers are refused, and how two values differ."""

import json
from typing import Any

import pytest
from hypothesis import given

from configsvc.domain.json_values import ABSENT, Difference, changed_members, differences, problem
from tests.domain.json_strategies import VALUES


def digits_changed(text: str) -> str:
    return text.replace("0", "7")


@given(VALUES, VALUES)
def test_values_are_equal_exactly_if_their_texts_are(one: Any, other: Any) -> None:
    for before, after in (
        (one, other),
        (one, json.loads(json.dumps(one))),
        (one, json.loads(digits_changed(json.dumps(one)))),
    ):
        same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
        assert (changed_members({"value": before}, {"value": after}) == ()) == same
        assert (differences(before, after) == ()) == same


@pytest.mark.parametrize("bad", [2**53, -(2**53), 1e16, 1e300, 2**53 * 1.0, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("shape", ["alone", "in a list", "in an object"])
def test_inexact_number_is_refused_at_any_depth(bad: float, shape: str) -> None:
    value = {"alone": bad, "in a list": [[1, bad]], "in an object": [{"a": bad}]}[shape]
    assert problem(value, 10_000).startswith("must not have")


@pytest.mark.parametrize(
    "good", ["1234567890123456789", "1e+5", "NaN", 2**53 - 1, -(2**53) + 1, 1.5e-7, 123456789012345.6]
)
def test_exact_numbers_and_texts_that_look_inexact_are_accepted(good: Any) -> None:
    assert problem([good], 10_000) == ""


def test_lists_differ_by_position() -> None:
    assert differences([1, 2, 3], [1, 5]) == (
        Difference("/1", "replace", 2, 5),
        Difference("/2", "remove", 3, ABSENT),
    )
    assert differences([1], [1, None, {"a": 2}]) == (
        Difference("/1", "add", ABSENT, None),
        Difference("/2", "add", ABSENT, {"a": 2}),
    )


def test_member_stored_without_a_value_counts_as_its_default() -> None:
    assert changed_members({"a": 1}, {"a": 1, "new": False, "other": []}) == ()
    assert changed_members({"a": 1}, {"a": 1, "new": True}) == ("new",)
    assert changed_members({"a": 1, "b": False}, {"a": 1, "b": 0}) == ("b",)
