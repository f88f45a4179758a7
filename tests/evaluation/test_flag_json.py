"""Flags as JSON: an exact round trip, and no input that raises anything but InvalidFlag."""

import json
from collections import UserDict
from dataclasses import replace
from typing import Any

import pytest
from configsvc_client.evaluation import Flag, FlagSet, InvalidFlag, check_flag
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.samples import (
    arm,
    condition,
    contexts,
    flag,
    flag_json,
    json_values,
    no_deadline,
    rule,
    valid_flags,
)

Json = Any

FULL = flag_json(
    value_type="string",
    variants=[{"name": "a", "value": "A"}, {"name": "b", "value": "B"}],
    default_variant="a",
    off_variant="b",
    on_variant="b",
    rollout_percentage=12.345,
    rollout_split=[arm("a", 1), arm("b", 2)],
    targeted_users=["u1"],
    bucket_by="account",
    sticky=True,
    incarnation="9f3c",
    rules=[{"name": "r", **rule(condition("country", "in", "de", 5, True), variant="a")}, rule(split=[arm("b", 1)])],
    prerequisites=[{"flag_name": "other", "variants": ["on"]}],
    description="two\nlines",
    tags=["t"],
    owner="team",
    version=4,
)


@no_deadline
@given(valid_flags(others=("p", "q")))
def test_json_round_trip_is_exact(subject: Flag) -> None:
    check_flag(subject)
    source = json.loads(json.dumps(subject.to_json()))
    assert Flag.from_json(source) == subject
    assert json.dumps(Flag.from_json(source).to_json()) == json.dumps(source)


@no_deadline
@given(st.integers(0, 100_000))
def test_every_thousandth_of_a_percent_survives_json(steps: int) -> None:
    read = flag(rollout_percentage=steps / 1000)
    assert read.rollout_thousandths == steps
    assert read.to_json()["rollout_percentage"] == steps / 1000


@pytest.mark.parametrize("finer", [0.0005, 33.3333, 99.9999, 100.001, -0.001, float("nan"), float("inf"), "25", True])
def test_percentage_that_is_out_of_range_or_too_fine_is_refused(finer: Json) -> None:
    with pytest.raises(InvalidFlag) as caught:
        flag(rollout_percentage=finer)
    (violation,) = caught.value.violations
    assert violation.field == "rollout_percentage"
    assert "0 to 100 in steps of 0.001" in violation.description


def test_flag_needs_only_its_identity() -> None:
    assert Flag("f", "test") == Flag.from_json({"name": "f", "environment": "test"})


def test_missing_null_and_default_members_are_the_same() -> None:
    nothing = dict.fromkeys(FULL, None) | {"name": "f", "environment": "test"}
    assert Flag.from_json(nothing) == Flag("f", "test")


def test_output_only_members_are_ignored() -> None:
    shown = {"etag": "x", "revision": "7", "created_at": "", "updated_at": None, "updated_by": "ana"}
    assert Flag.from_json({**FULL, **shown, "definition_omitted": False}) == Flag.from_json(FULL)


def paths(value: Json, path: tuple[Json, ...] = ()) -> list[tuple[Json, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for name, item in inner for deeper in paths(item, (*path, name)))]


def with_value(source: Json, path: tuple[Json, ...], value: Json) -> Json:
    """A copy of a JSON value that has `value` at `path`."""
    if not path:
        return value
    copy = dict(source) if isinstance(source, dict) else list(source)
    copy[path[0]] = with_value(source[path[0]], path[1:], value)
    return copy


def objects(value: Json, path: tuple[Json, ...] = ()) -> list[tuple[Json, ...]]:
    """Where the objects are that have a schema: not in a variant's value."""
    return [place for place in paths(value, path) if isinstance(at(value, place), dict) and "value" not in place]


def at(value: Json, path: tuple[Json, ...]) -> Json:
    for part in path:
        value = value[part]
    return value


@pytest.mark.parametrize("path", objects(FULL), ids=str)
def test_unknown_members_are_refused_by_name_at_every_depth(path: tuple[Json, ...]) -> None:
    source = with_value(FULL, path, {**at(FULL, path), "rolout": 50})
    with pytest.raises(InvalidFlag) as caught:
        Flag.from_json(source)
    (violation,) = caught.value.violations
    assert violation.field.endswith("rolout")
    assert "is no member" in violation.description
    assert Flag.from_json(source, ignore_unknown=True) == Flag.from_json(FULL)
    assert not Flag.from_stored(source).problem, "a newer release may have written it"


def test_member_in_camel_case_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        InvalidFlag, match="rolloutPercentage: is no member of a flag; 'rollout_percentage' may be meant"
    ):
        Flag.from_json(flag_json() | {"rolloutPercentage": 50})


def test_error_text_is_bounded_for_any_number_of_unknown_members() -> None:
    with pytest.raises(InvalidFlag) as caught:
        Flag.from_json(flag_json() | {f"{number}-{'x' * 10_000}": 1 for number in range(10_000)})
    assert len(str(caught.value)) < 100_000


def test_integers_may_be_written_as_doubles() -> None:
    assert Flag.from_json(
        {**FULL, "version": 4.0, "rollout_split": [arm("a", 1), {"variant": "b", "weight": 2.0}]}
    ) == (Flag.from_json(FULL))


def test_any_mapping_is_accepted() -> None:
    assert Flag.from_json(UserDict(FULL)) == Flag.from_json(FULL)


def test_flag_shares_nothing_with_its_json() -> None:
    value = {"deep": [1]}
    source = flag_json(value_type="object", variants=[{"name": "a", "value": value}], default_variant="a")
    read = Flag.from_json(source)
    value["deep"].append(2)
    read.to_json()["variants"][0]["value"]["deep"].append(3)
    assert read.variants[0].value == {"deep": [1]}


nested: Json = 1
for _ in range(100_000):
    nested = [nested]

STRANGE = [
    nested,
    10**400,
    -(10**400),
    2**53,
    1e300,
    float("nan"),
    float("-inf"),
    "\ud800",
    "\0",
    "x" * 100_000,
    [None],
    [[]],
    [{}],
    {None: 1},
    {"\0": 1},
    object(),
    b"bytes",
    {1, 2},
    ["x"] * 100_001,
]


@pytest.mark.parametrize("path", paths(FULL), ids=str)
def test_malformed_json_in_any_place_raises_nothing_but_invalid_flag(path: tuple[Json, ...]) -> None:
    for strange in STRANGE:
        try:
            read = Flag.from_json(with_value(FULL, path, strange))
        except InvalidFlag as error:
            refused = error.violations
            refused_well = bool(refused) and all(v.field and v.description for v in refused)
        else:
            refused_well = len(FlagSet("test", [read])) == 1
        assert refused_well


@settings(no_deadline, max_examples=400)
@given(st.sampled_from(paths(FULL)), json_values() | st.floats() | st.integers() | st.text(), contexts())
def test_fuzzed_json_is_refused_or_can_be_evaluated(path: tuple[Json, ...], value: Json, context: Any) -> None:
    try:
        read = Flag.from_json(with_value(FULL, path, value))
    except InvalidFlag:
        return
    assert Flag.from_json(read.to_json()) == read
    FlagSet(read.environment, [read]).evaluate(read.name, context, explain=True)


@no_deadline
@given(json_values())
def test_any_json_raises_nothing_but_invalid_flag(value: Json) -> None:
    with pytest.raises(InvalidFlag):
        Flag.from_json(value)


def test_one_answer_names_everything_that_is_wrong() -> None:
    source = flag_json(
        name="a b",
        enabled="yes",
        rollout_percentage=101,
        value_type="colour",
        on_variant="red",
        targeted_users=["u", 5, ""],
        rules=[
            rule(),
            rule(condition("", "like", "x"), condition("x", "matches", "(?=a)"), variant="red", split=[arm("on", 0)]),
        ],
        prerequisites=[{"flag_name": "other"}],
    )
    with pytest.raises(InvalidFlag) as caught:
        Flag.from_json(source)
    assert {v.field for v in caught.value.violations} == {
        "name",
        "enabled",
        "rollout_percentage",
        "value_type",
        "on_variant",
        "targeted_users[1]",
        "targeted_users[2]",
        "rules[1].conditions[0].attribute",
        "rules[1].conditions[0].operator",
        "rules[1].conditions[1].values[0]",
        "rules[1].variant",
        "rules[1].split",
        "prerequisites[0].variants",
    }
    assert "targeted_users[1]: must be a string" in str(caught.value)


def test_check_flag_applies_the_rules_of_from_json() -> None:
    with pytest.raises(InvalidFlag) as caught:
        check_flag(replace(Flag.from_json(FULL), rollout_thousandths=100_001, version=-1, on_variant="zzz"))
    assert {v.field for v in caught.value.violations} == {"rollout_percentage", "version", "on_variant"}
