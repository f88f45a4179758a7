"""The flags of an environment together: prerequisites, cycles, changes."""

import pytest
from configsvc_client.evaluation import (
    Context,
    Flag,
    FlagNotFound,
    FlagSet,
    Reason,
    find_cycle,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.samples import ENVIRONMENT, contexts, flag, no_deadline, valid_flags

USER = Context("u")


def requiring(name: str, *others: str, variants: tuple[str, ...] = ("on",), enabled: bool = True) -> Flag:
    prerequisites = [{"flag_name": other, "variants": list(variants)} for other in others]
    return flag(name=name, rollout_percentage=100, prerequisites=prerequisites, enabled=enabled)


def flag_set(*flags: Flag) -> FlagSet:
    return FlagSet(ENVIRONMENT, flags, 7)


def test_unknown_flag_is_not_found() -> None:
    with pytest.raises(FlagNotFound, match="environment 'test' has no flag 'x'") as caught:
        flag_set().evaluate("x", USER)
    assert isinstance(caught.value, KeyError)
    assert caught.value.flag_name == "x"


@pytest.mark.parametrize("explain", [False, True])
def test_prerequisite_decides_between_the_flag_and_its_off_variant(explain: bool) -> None:
    met = flag_set(requiring("child", "parent"), requiring("parent"))
    assert met.evaluate("child", USER, explain).value is True
    unmet = flag_set(requiring("child", "parent"), requiring("parent", enabled=False))
    result = unmet.evaluate("child", USER, explain)
    assert (result.variant, result.reason, result.value) == ("off", Reason.DISABLED, False)


def test_all_prerequisites_have_to_be_met() -> None:
    flags = flag_set(requiring("child", "one", "two"), requiring("one"), requiring("two", enabled=False))
    assert flags.evaluate("child", USER).reason is Reason.DISABLED


def test_prerequisite_compares_the_served_variant_even_of_a_disabled_flag() -> None:
    flags = flag_set(requiring("child", "parent", variants=("off",)), requiring("parent", enabled=False))
    assert flags.evaluate("child", USER).value is True


def test_missing_prerequisite_is_not_met() -> None:
    assert flag_set(requiring("child", "gone")).evaluate("child", USER).reason is Reason.DISABLED


def test_prerequisites_come_before_targeted_users() -> None:
    child = flag(name="child", targeted_users=["u"], prerequisites=[{"flag_name": "gone", "variants": ["on"]}])
    assert flag_set(child).evaluate("child", USER).reason is Reason.DISABLED


def test_flag_with_prerequisites_is_never_static() -> None:
    child = flag(name="child", prerequisites=[{"flag_name": "parent", "variants": ["on"]}])
    assert flag_set(child, requiring("parent")).evaluate("child", USER).reason is Reason.DEFAULT


def test_flag_may_be_required_twice() -> None:
    prerequisites = [{"flag_name": "parent", "variants": ["on"]}, {"flag_name": "parent", "variants": ["off"]}]
    flags = flag_set(flag(name="child", prerequisites=prerequisites), requiring("parent"))
    result = flags.evaluate("child", USER, explain=True)
    assert result.explanation is not None
    assert [p.met for p in result.explanation.prerequisites] == [True, False]


def test_chain_of_prerequisites_may_be_longer_than_the_stack() -> None:
    flags = flag_set(requiring("f0"), *(requiring(f"f{i}", f"f{i - 1}") for i in range(1, 5_000)))
    assert flags.evaluate("f4999", USER).value is True
    assert all(result.value for result in flags.evaluate_all(USER))


def test_cycle_is_found_and_named() -> None:
    flags = [requiring("a", "b"), requiring("b", "c", "d"), requiring("c", "a"), requiring("d"), requiring("e", "a")]
    assert find_cycle(flags) in {("a", "b", "c", "a"), ("b", "c", "a", "b"), ("c", "a", "b", "c")}
    assert find_cycle([f for f in flags if f.name != "c"]) is None
    assert find_cycle([]) is None


def test_cycle_of_disabled_flags_is_found() -> None:
    assert find_cycle([requiring("a", "b", enabled=False), requiring("b", "a", enabled=False)]) is not None


def test_flags_on_a_cycle_are_unmet_whichever_is_evaluated() -> None:
    flags = flag_set(
        requiring("a", "b", variants=("on", "off")),
        requiring("b", "a", variants=("on", "off")),
        requiring("into", "a", variants=("on", "off")),
        requiring("beside"),
    )
    for name in ("a", "b", "into"):
        assert flags.evaluate(name, USER).reason is Reason.DISABLED
        explanation = flags.evaluate(name, USER, explain=True).explanation
        assert explanation is not None
        assert [p.problem for p in explanation.prerequisites] == ["cycle"]
    assert [result.value for result in flags.evaluate_all(USER)] == [False, False, True, False]


@no_deadline
@given(
    st.lists(valid_flags("p", ("q", "r")), max_size=1),
    valid_flags("q", ("r", "p")),
    valid_flags("r", ("p",)),
    contexts(),
)
def test_flags_evaluated_together_and_alone_agree(first: list[Flag], q: Flag, r: Flag, context: Context) -> None:
    flags = FlagSet(ENVIRONMENT, [*first, q, r])
    alone = tuple(flags.evaluate(one.name, context) for one in flags)
    assert flags.evaluate_all(context) == alone


def test_all_flags_come_in_the_order_of_name() -> None:
    flags = flag_set(requiring("b"), requiring("c"), requiring("a", "c"))
    assert [result.flag_name for result in flags.evaluate_all(USER)] == ["a", "b", "c"]
    assert [one.name for one in flags] == ["a", "b", "c"]
    assert all(result.explanation for result in flags.evaluate_all(USER, explain=True))


def test_change_makes_a_new_set_and_leaves_the_old_one() -> None:
    before = flag_set(requiring("child", "parent"), requiring("parent"))
    off = before.with_flag(requiring("parent", enabled=False), 8)
    gone = off.without_flag("parent", 9)
    assert [s.revision for s in (before, off, gone)] == [7, 8, 9]
    assert [s.evaluate("child", USER).value for s in (before, off, gone)] == [True, False, False]
    assert [len(s) for s in (before, off, gone)] == [2, 2, 1]
    assert "parent" in before
    assert "parent" not in gone
    assert gone.get("parent") is None
    assert before.get("parent") == requiring("parent")
    assert gone.without_flag("never", 10).environment == ENVIRONMENT


def test_cycle_comes_and_goes_with_a_change() -> None:
    flags = flag_set(requiring("a", "b"), requiring("b"))
    tied = flags.with_flag(requiring("b", "a"), 8)
    assert tied.evaluate("a", USER).value is False
    assert tied.with_flag(requiring("b"), 9).evaluate("a", USER).value is True


def test_flag_of_another_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="is of environment 'test', not of 'production'"):
        FlagSet("production", [flag()])
