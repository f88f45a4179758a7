"""Invalid flags are refused with the path of the field and what is allowed."""

from typing import Any

import pytest
from configsvc_client.evaluation import (
    Flag,
    InvalidFlag,
    Violation,
    check_prerequisites,
    check_successor,
)

from tests.evaluation.samples import COLOURS, arm, condition, flag, flag_json, rule

Json = Any


def violations(**members: Json) -> tuple[Violation, ...]:
    with pytest.raises(InvalidFlag) as caught:
        Flag.from_json(flag_json(**members))
    return caught.value.violations


def named(*names: str) -> Json:
    return [{"name": name, "value": name} for name in names]


OBJECT: Json = {"value_type": "object", "default_variant": "a"}


def nested(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = {"x": value}
    return value


REFUSED: list[tuple[Json, str, str]] = [
    ({"name": ""}, "name", "1 to 128 characters"),
    ({"name": "x" * 129}, "name", "1 to 128 characters"),
    ({"name": "-x"}, "name", "starting with a letter or digit"),
    ({"name": "evaluate"}, "name", "shadows"),
    ({"environment": "a/b"}, "environment", "1 to 64 characters"),
    ({"salt": "a\nb"}, "salt", "control characters"),
    ({"description": "x" * 4097}, "description", "at most 4096"),
    ({"tags": ["t"] * 65}, "tags", "at most 64 items"),
    ({"tags": [""]}, "tags[0]", "is required"),
    ({"targeted_users": ["x" * 513]}, "targeted_users[0]", "at most 512"),
    ({"targeted_users": ["u"] * 100_001}, "targeted_users", "at most 100000 items"),
    ({"value_type": "json"}, "value_type", "boolean, string, number, object"),
    ({"value_type": "string"}, "variants", "1 to 100 items"),
    ({**COLOURS, "variants": named("red", "red")}, "variants[1].name", "unique"),
    ({**COLOURS, "variants": named(*(f"v{i}" for i in range(101)))}, "variants", "at most 100 items"),
    ({"variants": named("red"), "default_variant": "red"}, "variants[0].value", "true or false"),
    ({**COLOURS, "variants": [{"name": "red"}]}, "variants[0].value", "must be a string"),
    ({**OBJECT, "value_type": "number", "variants": [{"name": "a", "value": True}]}, "variants[0].value", "a number"),
    ({**OBJECT, "variants": [{"name": "a", "value": "x"}]}, "variants[0].value", "object or array"),
    ({**OBJECT, "variants": [{"name": "a", "value": [2**53]}]}, "variants[0].value", "send it as a string"),
    ({**OBJECT, "variants": [{"name": "a", "value": nested(25)}]}, "variants[0].value", "24 levels"),
    ({**OBJECT, "variants": [{"name": "a", "value": ["x" * 70_000]}]}, "variants[0].value", "65536 bytes"),
    ({**OBJECT, "variants": [{"name": "a", "value": {"x": "\0"}}]}, "variants[0].value", "NUL"),
    ({**COLOURS, "default_variant": ""}, "default_variant", "is required"),
    ({**COLOURS, "default_variant": "pink"}, "default_variant", "one of red, green, blue"),
    ({"off_variant": "pink"}, "off_variant", "one of on, off"),
    ({**COLOURS, "targeted_users": ["u"]}, "on_variant", "is required if users are targeted"),
    ({**COLOURS, "rollout_percentage": 1}, "on_variant", "is required if users are targeted"),
    ({"rollout_split": [arm("on", 0)]}, "rollout_split", "sum is above 0"),
    ({"rollout_split": [arm("on", -1)]}, "rollout_split[0].weight", "from 0 to 1000000"),
    ({"rollout_split": [arm("on", 1), arm("on", 1)]}, "rollout_split[1].variant", "unique in the split"),
    ({"rollout_split": [arm("pink", 1)]}, "rollout_split[0].variant", "one of on, off"),
    ({"rollout_split": [{"weight": 1}]}, "rollout_split[0].variant", "is required"),
    ({"rules": [{}]}, "rules[0].variant", "or split"),
    ({"rules": [rule(variant="on", split=[arm("on", 1)])]}, "rules[0].variant", "not both"),
    ({"rules": [rule(variant="pink")]}, "rules[0].variant", "one of on, off"),
    (
        {"rules": [rule(condition("x", "matches", *["a"] * 51))] * 2},
        "rules",
        "at most 100 patterns together; they have 102",
    ),
    ({"rules": [rule()] * 101}, "rules", "at most 100 items"),
    ({"rules": [rule(*[condition("x", "present")] * 65)]}, "rules[0].conditions", "at most 64 items"),
    ({"prerequisites": [{"flag_name": "f", "variants": ["on"]}]}, "prerequisites[0].flag_name", "another flag"),
    ({"prerequisites": [{"flag_name": "g", "variants": []}]}, "prerequisites[0].variants", "1 to 100 items"),
]


@pytest.mark.parametrize(("members", "field", "allowed"), REFUSED)
def test_flag_is_refused_with_the_field_and_what_is_allowed(members: Json, field: str, allowed: str) -> None:
    (violation,) = violations(**members)
    assert violation.field == field
    assert allowed in violation.description


def test_value_may_be_nested_up_to_the_limit() -> None:
    deepest = nested(24)
    assert flag(**OBJECT, variants=[{"name": "a", "value": deepest}]).variants[0].value == deepest
    (violation,) = violations(**OBJECT, variants=[{"name": "a", "value": {"x": deepest}}])
    assert violation.field == "variants[0].value"


@pytest.mark.parametrize(("field", "most"), [("name", 128), ("environment", 64), ("salt", 128), ("owner", 256)])
def test_text_may_have_as_many_characters_as_the_limit(field: str, most: int) -> None:
    assert getattr(flag(**{field: "x" * most}), field) == "x" * most
    assert [v.field for v in violations(**{field: "x" * (most + 1)})] == [field]


BAD_CONDITIONS: list[tuple[str, list[Json], str, str]] = [
    ("like", ["x"], "operator", "must be one of equals, not_equals"),
    ("equals", [], "values", "exactly one value"),
    ("equals", ["a", "b"], "values", "exactly one value"),
    ("in", [], "values", "1 to 10000 values"),
    ("in", ["x"] * 10_001, "values", "at most 10000 items"),
    ("in", ["x", None], "values[1]", "a string, a boolean or a finite number"),
    ("in", ["x" * 1_025], "values[0]", "at most 1024"),
    ("equals", [{"a": 1}], "values[0]", "must be JSON"),
    ("equals", [2**53], "values[0]", "send it as a string"),
    ("equals", [float("nan")], "values[0]", "NaN"),
    ("contains", [5], "values[0]", "a string that is not empty"),
    ("starts_with", [""], "values[0]", "a string that is not empty"),
    ("ends_with", ["x"] * 101, "values", "1 to 100 values"),
    ("less_than", ["5"], "values[0]", "a finite number"),
    ("less_than", [2**53], "values[0]", "2^53-1"),
    ("greater_than", [1e300], "values[0]", "2^53-1"),
    ("less_than", [True], "values[0]", "a finite number"),
    ("semver_equals", ["1.x"], "values[0]", "semantic version"),
    ("semver_equals", [1.2], "values[0]", "semantic version"),
    ("before", ["yesterday"], "values[0]", "RFC 3339"),
    ("after", ["2026-02-30T00:00:00Z"], "values[0]", "RFC 3339"),
    ("cidr", ["10.0.0.0/33"], "values[0]", "must be a network"),
    ("cidr", ["10.0.0.1/8"], "values[0]", "'10.0.0.0/8' may be meant"),
    ("cidr", ["::ffff:10.0.0.1/104"], "values[0]", "may be meant"),
    ("cidr", ["::ffff:10.0.0.0/129"], "values[0]", "must be a network"),
    ("cidr", [5], "values[0]", "must be a network"),
    ("present", ["x"], "values", "no values"),
    ("absent", [None], "values", "no values"),
    ("matches", [""], "values[0]", "RE2 syntax"),
    ("matches", ["("], "values[0]", "missing )"),
    ("matches", [r"(a)\1"], "values[0]", "without look-around or backreferences"),
    ("matches", ["(?=a)b"], "values[0]", "without look-around or backreferences"),
    ("matches", ["(?<!a)b"], "values[0]", "without look-around or backreferences"),
    ("matches", ["a{1001}"], "values[0]", "repetition"),
    ("matches", [r"((\pL{50}){10}){2}"], "values[0]", "too large"),
    ("matches", ["a" * 1_001], "values[0]", "at most 1000"),
    ("matches", ["a\0"], "values[0]", "NUL"),
]


@pytest.mark.parametrize(("operator", "operands", "part", "allowed"), BAD_CONDITIONS)
def test_condition_is_refused_with_the_field_and_what_is_allowed(
    operator: str, operands: list[Json], part: str, allowed: str
) -> None:
    (violation,) = violations(rules=[rule(), rule(condition("x", operator, *operands))])
    assert violation.field == f"rules[1].conditions[0].{part}"
    assert allowed in violation.description


def test_references_to_invalid_variants_are_not_reported_too() -> None:
    (violation,) = violations(**{**COLOURS, "variants": "red", "on_variant": "red"})
    assert violation.field == "variants"


def test_salt_of_a_flag_never_changes() -> None:
    with pytest.raises(InvalidFlag) as caught:
        check_successor(flag(), flag(salt="other"))
    assert [v.field for v in caught.value.violations] == ["salt"]


@pytest.mark.parametrize("after", [("green", "red", "blue"), ("red", "green"), ("new", "red", "green", "blue")])
def test_variants_keep_their_positions(after: tuple[str, ...]) -> None:
    with pytest.raises(InvalidFlag, match="must begin with red, green, blue"):
        check_successor(flag(**COLOURS), flag(**{**COLOURS, "variants": named(*after)}))


def test_new_variants_go_to_the_end_and_values_may_change() -> None:
    check_successor(flag(**COLOURS), flag(**{**COLOURS, "variants": named("red", "green", "blue", "new")}))


def test_implied_variants_keep_their_positions_when_they_are_written_out() -> None:
    spelled = [{"name": "on", "value": True}, {"name": "off", "value": False}]
    check_successor(flag(), flag(variants=spelled, default_variant="off"))
    with pytest.raises(InvalidFlag, match="must begin with on, off"):
        check_successor(flag(), flag(variants=spelled[::-1], default_variant="off"))


def test_prerequisite_has_to_name_an_existing_flag_and_variant() -> None:
    child = flag(
        prerequisites=[{"flag_name": "gone", "variants": ["on"]}, {"flag_name": "there", "variants": ["on", "pink"]}]
    )
    with pytest.raises(InvalidFlag) as caught:
        check_prerequisites(child, {"there": flag(name="there")})
    assert [v.field for v in caught.value.violations] == ["prerequisites[0].flag_name", "prerequisites[1].variants[1]"]
    check_prerequisites(flag(), {})
