"""A flag set that was changed flag by flag is the same as one that was built from all flags."""

from configsvc_client.evaluation import Context, Evaluation, Flag, FlagSet, Reason
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.samples import ENVIRONMENT, flag, no_deadline

USER = Context("u")
NAMES = [f"f{number}" for number in range(8)]


@st.composite
def flags(draw: st.DrawFn) -> Flag:
    others = draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
    name = draw(st.sampled_from(NAMES))
    return flag(
        name=name,
        enabled=draw(st.integers(0, 4)) > 0,
        rollout_percentage=100,
        prerequisites=[{"flag_name": other, "variants": ["on"]} for other in others if other != name],
    )


def batches() -> st.SearchStrategy[list[tuple[list[Flag], list[str]]]]:
    return st.lists(st.tuples(st.lists(flags(), max_size=2), st.lists(st.sampled_from(NAMES), max_size=1)), max_size=12)


def results(flag_set: FlagSet) -> tuple[tuple[Evaluation, ...], list[Flag], list[list[str]]]:
    """What callers see of a set; the last part tells which flags are on or before a cycle."""
    explained = flag_set.evaluate_all(USER, explain=True)
    problems = [[p.problem for p in e.explanation.prerequisites] if e.explanation else [] for e in explained]
    return flag_set.evaluate_all(USER), list(flag_set), problems


@no_deadline
@given(st.lists(flags(), max_size=8), batches())
def test_changed_set_is_the_same_as_one_built_whole(
    first: list[Flag], changes: list[tuple[list[Flag], list[str]]]
) -> None:
    flag_set = FlagSet(ENVIRONMENT, first, 1)
    expected = {one.name: one for one in first}
    for revision, (put, removed) in enumerate(changes, 2):
        before, before_results = flag_set, results(flag_set)
        if len(put) == 1 and not removed:
            flag_set = flag_set.with_flag(put[0], revision)
        elif removed and not put:
            flag_set = flag_set.without_flag(removed[0], revision)
        else:
            flag_set = flag_set.with_changes(put, removed, revision)
        expected.update((one.name, one) for one in put)
        for name in removed:
            expected.pop(name, None)
        assert results(flag_set) == results(FlagSet(ENVIRONMENT, expected.values(), revision))
        assert (flag_set.revision, len(flag_set)) == (revision, len(expected))
        assert results(before) == before_results


def test_flag_that_closes_a_cycle_through_unchanged_flags_is_unmet() -> None:
    chain = [
        flag(name=f"f{n}", prerequisites=[{"flag_name": f"f{n + 1}", "variants": ["on", "off"]}]) for n in range(3)
    ]
    flag_set = FlagSet(ENVIRONMENT, [*chain, flag(name="beside")], 1)
    closing = flag(name="f3", prerequisites=[{"flag_name": "f1", "variants": ["on", "off"]}])
    reasons = [result.reason for result in flag_set.with_flag(closing, 2).evaluate_all(USER)]
    assert reasons[1:] == [Reason.DISABLED] * 4
    opened = flag_set.with_flag(closing, 2).without_flag("f1", 3)
    assert opened.evaluate("f3", USER).reason is Reason.DISABLED, "its prerequisite is missing"
    assert opened.evaluate("f2", USER).reason is not Reason.DISABLED


def test_new_flag_comes_in_the_order_of_name() -> None:
    flag_set = FlagSet(ENVIRONMENT, [flag(name="b"), flag(name="d")], 1)
    assert [one.name for one in flag_set] == ["b", "d"]
    changed = flag_set.with_changes([flag(name="c"), flag(name="a")], ["d", "never"], 2)
    assert [one.name for one in changed] == ["a", "b", "c"]
    assert [one.name for one in changed.with_flag(flag(name="b", enabled=False), 3)] == ["a", "b", "c"]
