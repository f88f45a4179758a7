"""Sticky flags, seen from the evaluation: what was given before stands where chance decides, and nowhere else."""

from configsvc_client.evaluation import Context, FlagSet, Reason
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.samples import COLOURS, ENVIRONMENT, arm, condition, contexts, flag, rule, unhurried, valid_flags

USER = Context("u", {"country": "de"})


def test_what_was_given_stands_when_the_percentage_is_lowered() -> None:
    flags = FlagSet(ENVIRONMENT, [flag(sticky=True, rollout_percentage=0)])
    assert flags.evaluate("f", USER).value is False
    kept = flags.evaluate("f", USER, assigned={"f": "on"})
    assert (kept.value, kept.enabled, kept.variant, kept.reason) == (True, True, "on", Reason.SPLIT)


def test_what_was_given_stands_when_the_weights_change() -> None:
    split = [arm("red", 0), arm("green", 0), arm("blue", 1)]
    flags = FlagSet(ENVIRONMENT, [flag(**COLOURS, sticky=True, rollout_percentage=100, rollout_split=split)])
    assert flags.evaluate("f", USER).value == "BLUE"
    assert flags.evaluate("f", USER, assigned={"f": "green"}).value == "GREEN"


def test_what_is_nobodys_chance_comes_first() -> None:
    cases = {
        Reason.DISABLED: flag(sticky=True, enabled=False),
        Reason.TARGETING_MATCH: flag(sticky=True, rules=[rule(condition("country", "equals", "de"), variant="off")]),
    }
    for reason, subject in cases.items():
        found = FlagSet(ENVIRONMENT, [subject]).evaluate("f", USER, assigned={"f": "on"})
        assert (found.reason, found.value) == (reason, False)


def test_an_assignment_to_a_flag_that_is_not_sticky_or_has_lost_the_variant_is_none() -> None:
    assert FlagSet(ENVIRONMENT, [flag()]).evaluate("f", USER, assigned={"f": "on"}).value is False
    assert FlagSet(ENVIRONMENT, [flag(sticky=True)]).evaluate("f", USER, assigned={"f": "gone"}).value is False


def test_a_prerequisite_keeps_what_it_gave_too() -> None:
    parent = flag(name="parent", sticky=True, rollout_percentage=0)
    child = flag(name="child", rollout_percentage=100, prerequisites=[{"flag_name": "parent", "variants": ["on"]}])
    flags = FlagSet(ENVIRONMENT, [parent, child])
    assert flags.evaluate("child", USER).reason is Reason.DISABLED
    assert flags.evaluate("child", USER, assigned={"parent": "on"}).value is True


def test_explain_names_the_assignment_and_says_what_would_be_given_today() -> None:
    flags = FlagSet(ENVIRONMENT, [flag(sticky=True, rollout_percentage=0.001)])
    found = flags.evaluate("f", USER, explain=True, assigned={"f": "on"})
    assert found.explanation is not None
    assert (found.explanation.decided_by, found.explanation.variant) == ("assignment", "on")
    assert found.explanation.reason == found.reason == Reason.SPLIT
    assert found.explanation.rollout is not None
    assert not found.explanation.rollout.inside


def test_required_by_names_every_flag_that_has_a_say_once() -> None:
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


@unhurried
@given(valid_flags(), contexts(), st.sampled_from(["on", "off", "a", "b", "c"]))
def test_without_sticky_an_assignment_changes_nothing(subject: object, context: Context, variant: str) -> None:
    flags = FlagSet(ENVIRONMENT, [subject])  # type: ignore[list-item]
    assert flags.evaluate("f", context, assigned={"f": variant}) == flags.evaluate("f", context)
