"""The first step that matches decides, with OpenFeature's reasons."""

from typing import Any

import pytest
from configsvc_client.evaluation import Context, ErrorCode, FlagSet, Reason

from tests.evaluation.samples import COLOURS, ENVIRONMENT, arm, condition, evaluate, flag, rule

Json = Any
GERMAN = condition("country", "equals", "de")
HALVES = [arm("green", 1), arm("blue", 1)]


def test_rollout_and_targeted_users_need_no_other_members() -> None:
    simple = flag(rollout_percentage=0, targeted_users=["u1"])
    hit, other = evaluate(simple, "u1"), evaluate(simple, "u2")
    assert (hit.value, hit.variant, hit.reason, hit.enabled) == (True, "on", Reason.TARGETING_MATCH, True)
    assert (other.value, other.variant, other.reason, other.enabled) == (False, "off", Reason.DEFAULT, False)


def test_disabled_comes_before_everything() -> None:
    off = flag(enabled=False, targeted_users=["u"], rules=[rule()], rollout_percentage=100)
    result = evaluate(off, "u")
    assert (result.variant, result.reason, result.enabled) == ("off", Reason.DISABLED, False)


def test_disabled_flag_without_off_variant_serves_its_default() -> None:
    result = evaluate(flag(**COLOURS, enabled=False))
    assert (result.variant, result.reason, result.enabled) == ("red", Reason.DISABLED, False)


def test_targeted_user_comes_before_rules() -> None:
    targeted = flag(**COLOURS, on_variant="green", targeted_users=["u"], rules=[rule(variant="blue")])
    assert evaluate(targeted, "u").variant == "green"
    assert evaluate(targeted, "v").variant == "blue"


def test_first_rule_that_holds_decides() -> None:
    ruled = flag(**COLOURS, rules=[rule(GERMAN, variant="green"), rule(variant="blue")])
    assert evaluate(ruled, country="de").variant == "green"
    assert evaluate(ruled, country="fr").variant == "blue"


def test_rule_without_conditions_always_holds() -> None:
    result = evaluate(flag(rules=[rule(variant="on")]), "")
    assert (result.variant, result.reason) == ("on", Reason.TARGETING_MATCH)


def test_split_of_a_rule_has_reason_split() -> None:
    result = evaluate(flag(**COLOURS, rules=[rule(GERMAN, split=HALVES)]), country="de")
    assert result.variant in ("green", "blue")
    assert result.reason is Reason.SPLIT


def test_rules_come_before_the_rollout() -> None:
    ruled = flag(**COLOURS, on_variant="blue", rollout_percentage=100, rules=[rule(GERMAN, variant="green")])
    assert evaluate(ruled, country="de").variant == "green"
    result = evaluate(ruled, country="fr")
    assert (result.variant, result.reason) == ("blue", Reason.SPLIT)


def test_rollout_to_everyone_without_split_needs_no_user() -> None:
    result = evaluate(flag(rollout_percentage=100), "")
    assert (result.value, result.reason, result.error_code) == (True, Reason.SPLIT, None)


def test_rollout_split_to_everyone_needs_a_user() -> None:
    everyone = flag(**COLOURS, rollout_percentage=100, rollout_split=HALVES)
    assert evaluate(everyone, "").error_code is ErrorCode.TARGETING_KEY_MISSING
    assert evaluate(everyone, "u").variant in ("green", "blue")


def test_split_without_rollout_is_not_served() -> None:
    result = evaluate(flag(**COLOURS, rollout_percentage=0, rollout_split=HALVES))
    assert (result.variant, result.reason) == ("red", Reason.STATIC)


@pytest.mark.parametrize(
    "dependent",
    [
        {"targeted_users": ["someone"]},
        {"rules": [rule(GERMAN)]},
        {"rollout_percentage": 0.001},
    ],
)
def test_default_is_static_only_if_nothing_depends_on_the_context(dependent: Json) -> None:
    assert evaluate(flag()).reason is Reason.STATIC
    assert evaluate(flag(**dependent), "u").reason is Reason.DEFAULT


@pytest.mark.parametrize(
    "needy",
    [
        {"rollout_percentage": 50},
        {"rollout_percentage": 50, "bucket_by": "user_id"},
        {"rules": [rule(split=[arm("on", 1), arm("off", 1)])]},
    ],
)
def test_missing_unit_gives_the_default_with_targeting_key_missing(needy: Json) -> None:
    result = evaluate(flag(**needy), "")
    assert (result.variant, result.value) == ("off", False)
    assert (result.reason, result.error_code) == (Reason.ERROR, ErrorCode.TARGETING_KEY_MISSING)
    assert "user_id" in result.error_message


def test_rules_work_without_a_user() -> None:
    ruled = flag(rollout_percentage=50, targeted_users=["u"], rules=[rule(GERMAN)])
    assert evaluate(ruled, "", country="de").reason is Reason.TARGETING_MATCH


@pytest.mark.parametrize("same", ["42", 42, 42.0])
def test_units_that_are_equal_in_json_get_one_bucket(same: Json) -> None:
    by_account = flag(**COLOURS, rollout_percentage=100, rollout_split=HALVES, bucket_by="account")
    assert evaluate(by_account, account=same) == evaluate(by_account, account="42")


@pytest.mark.parametrize("unusable", [None, "", True, 4.5, 2**53, float("nan"), 10**400, [1], {"a": 1}, "\ud800"])
def test_attribute_that_is_neither_text_nor_integer_cannot_be_bucketed(unusable: Json) -> None:
    by_account = flag(rollout_percentage=50, bucket_by="account")
    assert evaluate(by_account, account=unusable).error_code is ErrorCode.TARGETING_KEY_MISSING


def test_user_id_that_is_not_utf8_cannot_be_bucketed() -> None:
    assert evaluate(flag(rollout_percentage=50), "\ud800").error_code is ErrorCode.TARGETING_KEY_MISSING


def test_enabled_is_the_value_of_a_boolean_flag() -> None:
    inverted = flag(variants=[{"name": "yes", "value": False}, {"name": "no", "value": True}], default_variant="no")
    assert evaluate(inverted).enabled is True


def test_enabled_of_other_flags_says_whether_the_off_variant_is_served() -> None:
    colours = flag(**COLOURS, off_variant="blue", rules=[rule(GERMAN, variant="blue")])
    assert evaluate(colours).enabled is True
    assert evaluate(colours, country="de").enabled is False


def test_evaluation_names_the_flag_and_its_version() -> None:
    result = evaluate(flag(version=3))
    assert (result.flag_name, result.version, result.explanation) == ("f", 3, None)


@pytest.mark.parametrize("dependent", [{"enabled": False}, {}, {"rules": [rule(variant="a")]}])
@pytest.mark.parametrize("value", [{"a": [1]}, [[1], {"b": 2}]])
def test_caller_may_change_an_object_value(value: Json, dependent: Json) -> None:
    variants = [{"name": "a", "value": value}]
    flags = FlagSet(ENVIRONMENT, [flag(value_type="object", variants=variants, default_variant="a", **dependent)])
    for explain in (False, True):
        given = flags.evaluate("f", Context("u"), explain).value
        assert given == value
        inner = given["a"] if isinstance(given, dict) else given[0]
        inner.append(2)
        given.clear()
    assert flags.evaluate_all(Context("u"))[0].value == value


def test_user_id_that_is_not_a_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="user_id must be a string, not int"):
        Context(123)  # type: ignore[arg-type]


def test_reasons_and_error_codes_are_openfeatures_letter_for_letter() -> None:
    assert {*Reason} == {
        "STATIC",
        "DEFAULT",
        "TARGETING_MATCH",
        "SPLIT",
        "CACHED",
        "DISABLED",
        "UNKNOWN",
        "STALE",
        "ERROR",
    }
    assert {*ErrorCode} == {
        "PROVIDER_NOT_READY",
        "FLAG_NOT_FOUND",
        "PARSE_ERROR",
        "TYPE_MISMATCH",
        "TARGETING_KEY_MISSING",
        "INVALID_CONTEXT",
        "GENERAL",
    }
