"""Sticky flags in an evaluation: an assignment stands if chance decides, and only then."""

from configsvc_client.evaluation import Context, FlagSet, Reason
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.samples import (
    COLOURS,
    ENVIRONMENT,
    arm,
    condition,
    contexts,
    flag,
    no_deadline,
    rule,
    valid_flags,
)

USER = Context("u", {"country": "de"})


def test_assignment_stands_when_the_percentage_is_lowered() -> None:
    flags = FlagSet(ENVIRONMENT, [flag(sticky=True, rollout_percentage=0)])
    assert flags.evaluate("f", USER).value is False
    kept = flags.evaluate("f", USER, assigned={"f": "on"})
    assert (kept.value, kept.enabled, kept.variant, kept.reason) == (True, True, "on", Reason.SPLIT)


def test_assignment_stands_when_the_weights_change() -> None:
    split = [arm("red", 0), arm("green", 0), arm("blue", 1)]
    flags = FlagSet(ENVIRONMENT, [flag(**COLOURS, sticky=True, rollout_percentage=100, rollout_split=split)])
    assert flags.evaluate("f", USER).value == "BLUE"
    assert flags.evaluate("f", USER, assigned={"f": "green"}).value == "GREEN"


def test_disabled_and_rules_come_before_an_assignment() -> None:
    cases = {
        Reason.DISABLED: flag(sticky=True, enabled=False),
        Reason.TARGETING_MATCH: flag(sticky=True, rules=[rule(condition("country", "equals", "de"), variant="off")]),
    }
    for reason, subject in cases.items():
        result = FlagSet(ENVIRONMENT, [subject]).evaluate("f", USER, assigned={"f": "on"})
        assert (result.reason, result.value) == (reason, False)


def test_assignment_is_ignored_if_the_flag_is_not_sticky_or_lacks_the_variant() -> None:
    assert FlagSet(ENVIRONMENT, [flag()]).evaluate("f", USER, assigned={"f": "on"}).value is False
    assert FlagSet(ENVIRONMENT, [flag(sticky=True)]).evaluate("f", USER, assigned={"f": "gone"}).value is False


def test_assignment_of_a_prerequisite_is_kept() -> None:
    parent = flag(name="parent", sticky=True, rollout_percentage=0)
    child = flag(name="child", rollout_percentage=100, prerequisites=[{"flag_name": "parent", "variants": ["on"]}])
    flags = FlagSet(ENVIRONMENT, [parent, child])
    assert flags.evaluate("child", USER).reason is Reason.DISABLED
    assert flags.evaluate("child", USER, assigned={"parent": "on"}).value is True


def test_explanation_names_the_assignment_and_the_result_without_it() -> None:
    flags = FlagSet(ENVIRONMENT, [flag(sticky=True, rollout_percentage=0.001)])
    result = flags.evaluate("f", USER, explain=True, assigned={"f": "on"})
    assert result.explanation is not None
    assert (result.explanation.decided_by, result.explanation.variant) == ("assignment", "on")
    assert result.explanation.reason == result.reason == Reason.SPLIT
    assert result.explanation.rollout is not None
    assert not result.explanation.rollout.inside


def test_required_by_names_every_flag_the_result_depends_on_once() -> None:
    def requiring(name: str, *others: str) -> object:
        return flag(name=name, prerequisites=[{"flag_name": other, "variants": ["on"]} for other in others])

    flags = FlagSet(
        ENVIRONMENT,
        [requiring("a", "b", "c"), requiring("b", "d"), requiring("c", "d", "gone"), flag(name="d"), flag(name="e")],  # type: ignore[list-item]
    )
    first, *others = [one.name for one in flags.required_by("a")]
    assert (first, sorted(others)) == ("a", ["b", "c", "d"])
    assert [one.name for one in flags.required_by("e")] == ["e"]
    cycle = FlagSet(ENVIRONMENT, [requiring("a", "b"), requiring("b", "a")])  # type: ignore[list-item]
    assert {one.name for one in cycle.required_by("a")} == {"a", "b"}


@no_deadline
@given(valid_flags(), contexts(), st.sampled_from(["on", "off", "a", "b", "c"]))
def test_assignment_changes_nothing_if_the_flag_is_not_sticky(subject: object, context: Context, variant: str) -> None:
    flags = FlagSet(ENVIRONMENT, [subject])  # type: ignore[list-item]
    assert flags.evaluate("f", context, assigned={"f": variant}) == flags.evaluate("f", context)
