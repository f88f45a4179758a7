"""Explanations name each step, and agree with the evaluation itself."""

import json
from typing import Any

from configsvc_client.evaluation import (
    Context,
    Explanation,
    Flag,
    FlagSet,
    Reason,
    bucket,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.samples import (
    COLOURS,
    ENVIRONMENT,
    arm,
    condition,
    contexts,
    evaluate,
    flag,
    no_deadline,
    rule,
    valid_flags,
)

Json = Any


def explained(subject: Flag, user_id: str = "u", **attributes: Json) -> Explanation:
    explanation = evaluate(subject, user_id, explain=True, **attributes).explanation
    assert explanation is not None
    return explanation


@settings(no_deadline, max_examples=150)
@given(
    valid_flags(others=("p", "q")), valid_flags("p", ("q",)), st.lists(valid_flags("q", ("f",)), max_size=1), contexts()
)
def test_explanation_agrees_with_the_evaluation(f: Flag, p: Flag, q: list[Flag], context: Context) -> None:
    flags = FlagSet(ENVIRONMENT, [f, p, *q])
    for plain, explained_result in zip(
        flags.evaluate_all(context), flags.evaluate_all(context, explain=True), strict=True
    ):
        explanation = explained_result.explanation
        assert explanation is not None
        assert (explained_result.variant, explained_result.reason, explained_result.error_code) == (
            plain.variant,
            plain.reason,
            plain.error_code,
        )
        assert (explanation.variant, explanation.reason) == (plain.variant, plain.reason)
        assert repr(flags.evaluate(plain.flag_name, context, explain=True)) == repr(explained_result)
        assert json.loads(json.dumps(explanation.to_json())) == explanation.to_json()


def test_explanation_has_bucket_and_threshold() -> None:
    subject = flag(rollout_percentage=12.345)
    for user in ("a", "b", "c", "d", "e", "f", "g", "h"):
        gate = explained(subject, user).rollout
        assert gate is not None
        assert (gate.bucket_by, gate.bucket, gate.threshold) == ("user_id", bucket("f-1", user), 12_345)
        assert gate.inside is (bucket("f-1", user) < 12_345)


def test_user_whose_bucket_is_the_threshold_is_outside() -> None:
    edge = bucket("f-1", "u")
    for steps, inside in ((edge, False), (edge + 1, True)):
        subject = flag(rollout_percentage=steps / 1000)
        gate = explained(subject).rollout
        assert gate is not None
        assert gate.inside is evaluate(subject).value is inside


def test_explanation_has_every_condition_of_a_reached_rule() -> None:
    subject = flag(
        rules=[
            {"name": "no", **rule(condition("country", "equals", "de"), condition("gone", "equals", 1, negate=True))},
            {"name": "yes", **rule(condition("country", "equals", "fr"))},
            {"name": "later", **rule()},
        ]
    )
    explanation = explained(subject, country="fr")
    assert explanation.decided_by == "rules[1]"
    assert [(r.name, r.reached, r.matched) for r in explanation.rules] == [
        ("no", True, False),
        ("yes", True, True),
        ("later", False, False),
    ]
    assert [(c.present, c.negate, c.holds) for c in explanation.rules[0].conditions] == [
        (True, False, False),
        (False, True, False),
    ]
    assert explanation.rollout is None


def test_explanation_has_the_point_and_the_ranges_in_the_order_of_variants() -> None:
    subject = flag(**COLOURS, rollout_percentage=100, rollout_split=[arm("blue", 30), arm("green", 70)])
    split = explained(subject).split
    assert split is not None
    assert [(a.variant, a.first, a.end) for a in split.arms] == [("green", 0, 70), ("blue", 70, 100)]
    assert split.point is not None
    (hit,) = (a for a in split.arms if a.first <= split.point < a.end)
    assert hit.variant == split.variant == evaluate(subject).variant


def test_explanation_says_which_prerequisite_is_not_met() -> None:
    child = flag(
        prerequisites=[{"flag_name": "parent", "variants": ["off"]}, {"flag_name": "gone", "variants": ["on"]}]
    )
    result = FlagSet(ENVIRONMENT, [child, flag(name="parent")]).evaluate("f", Context("u"), explain=True)
    assert result.explanation is not None
    assert result.explanation.to_json() == {
        "decided_by": "prerequisites",
        "variant": "off",
        "reason": "DISABLED",
        "prerequisites": [
            {"flag_name": "parent", "wanted": ["off"], "served": "off", "met": True, "problem": ""},
            {"flag_name": "gone", "wanted": ["on"], "served": "", "met": False, "problem": "missing"},
        ],
        "rules": [],
    }


def test_each_step_can_be_the_one_that_decided() -> None:
    everything: Json = {"targeted_users": ["t"], "rules": [rule(condition("x", "present"))], "rollout_percentage": 50}
    inside = next(u for u in map(str, range(99)) if bucket("f-1", u) < 50_000)
    outside = next(u for u in map(str, range(99)) if bucket("f-1", u) >= 50_000)
    assert explained(flag(**everything, enabled=False), "t").decided_by == "disabled"
    assert explained(flag(**everything), "t", x=1).decided_by == "targeted_users"
    assert explained(flag(**everything), inside, x=1).decided_by == "rules[0]"
    assert explained(flag(**everything), inside).decided_by == "rollout"
    assert explained(flag(**everything), outside).decided_by == "default"
    keyless = explained(flag(**everything), "")
    assert (keyless.decided_by, keyless.reason) == ("rollout", Reason.ERROR)
    assert explained(flag(), "").reason == Reason.STATIC


def test_targeted_is_false_if_a_later_step_decided_and_none_if_it_was_not_reached() -> None:
    everything: Json = {"targeted_users": ["t"], "rules": [rule(condition("x", "present"))], "rollout_percentage": 50}
    inside = next(u for u in map(str, range(99)) if bucket("f-1", u) < 50_000)
    outside = next(u for u in map(str, range(99)) if bucket("f-1", u) >= 50_000)
    targeted = explained(flag(**everything), "t").targeted
    by_rule = explained(flag(**everything), "u", x=1).targeted
    by_rollout = explained(flag(**everything), inside).targeted
    by_default = explained(flag(**everything), outside).targeted
    without_key = explained(flag(**everything), "").targeted
    assert (targeted, by_rule, by_rollout, by_default, without_key) == (True, False, False, False, False)
    assert explained(flag()).targeted is False
    assert explained(flag(**everything, enabled=False), "t").targeted is None
