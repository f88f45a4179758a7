"""Stored flags are read whatever the limits are now; one that can't be read leaves the others alone."""

from typing import Any

import pytest
from configsvc_client.evaluation import Context, ErrorCode, Flag, FlagSet, InvalidFlag, Reason, limits

GOOD: dict[str, Any] = {"name": "good", "environment": "e", "enabled": True, "rollout_percentage": 100}


def stored(**members: Any) -> dict[str, Any]:
    return {**GOOD, "name": "f", **members}


@pytest.mark.parametrize(
    ("limit", "members"),
    [
        ("TARGETED_USERS", {"targeted_users": ["a", "b"]}),
        ("TAGS", {"tags": ["a", "b"]}),
        ("DESCRIPTION_CHARACTERS", {"description": "long"}),
        ("WEIGHT", {"rollout_split": [{"variant": "on", "weight": 2}]}),
        ("VARIANTS", {"variants": [{"name": n, "value": n == "a"} for n in "abc"], "default_variant": "a", "on_variant": "a"}),
        ("RULES", {"rules": [{"variant": "on"}, {"variant": "off"}]}),
        ("CONDITION_VALUES", {"rules": [{"variant": "on", "conditions": [
            {"attribute": "a", "operator": "in", "values": ["x", "y"]}]}]}),
        ("VALUE_BYTES", {"value_type": "object", "variants": [{"name": "v", "value": ["long"]}], "default_variant": "v",
                         "on_variant": "v"}),
        ("USER_ID_CHARACTERS", {"targeted_users": ["abc"]}),
    ],
)  # fmt: skip
def test_stored_flag_above_a_lowered_limit_is_read_and_evaluated(
    monkeypatch: pytest.MonkeyPatch, limit: str, members: dict[str, Any]
) -> None:
    definition = stored(**members)
    before = FlagSet("e", [Flag.from_json(definition)]).evaluate("f", Context("u"))
    monkeypatch.setattr(limits, limit, 1)
    with pytest.raises(InvalidFlag):
        Flag.from_json(definition)
    flag = Flag.from_stored(definition)
    assert not flag.problem
    assert FlagSet("e", [flag]).evaluate("f", Context("u")) == before


@pytest.mark.parametrize(
    "members",
    [
        {"rules": [{"variant": "on", "conditions": [{"attribute": "a", "operator": "sounds_like", "values": ["x"]}]}]},
        {"rules": [{"variant": "on", "conditions": [{"attribute": "a", "operator": "matches", "values": ["(?=x)"]}]}]},
        {"rules": [{"variant": "gone"}]},
        {"rules": [{"variant": "on", "conditions": "no list"}]},
        {"default_variant": "gone"},
        {"rollout_percentage": "half"},
        {"variants": {"no": "list"}},
        {"targeted_users": [1]},
    ],
)
def test_unreadable_flag_evaluates_to_an_error_and_leaves_others_alone(members: dict[str, Any]) -> None:
    needs = {**GOOD, "name": "needs", "prerequisites": [{"flag_name": "f", "variants": ["on"]}]}
    flags = FlagSet("e", [Flag.from_stored(one) for one in (stored(**members, version=7), GOOD, needs)])
    for explain in (False, True):
        result = flags.evaluate("f", Context("u"), explain=explain)
        assert (result.reason, result.error_code, result.value, result.version) == (
            Reason.ERROR, ErrorCode.PARSE_ERROR, None, 7
        )  # fmt: skip
        assert "'f'" in result.error_message
        assert flags.evaluate("good", Context("u"), explain=explain).value is True
        unmet = flags.evaluate("needs", Context("u"), explain=explain)
        assert (unmet.value, unmet.reason) == (False, Reason.DISABLED)
    assert [one.flag_name for one in flags.evaluate_all(Context("u"))] == ["f", "good", "needs"]
    # Its JSON, which other replicas read, is as unreadable; the next version mends it.
    again = FlagSet("e", [Flag.from_stored(flag.to_json()) for flag in flags])
    assert again.evaluate("f", Context("u")).error_code is ErrorCode.PARSE_ERROR
    assert flags.with_flag(Flag.from_json(stored()), 2).evaluate("f", Context("u")).value is True


@pytest.mark.parametrize("source", [{}, {"name": 1}, [], "text", None])
def test_from_stored_never_raises(source: Any) -> None:
    assert isinstance(Flag.from_stored(source), Flag)
