"""Medians and ratios of rounds, the verdicts on goals, and the forms of the report."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import chart, report
from benchmarks.comparisons.sides import EMPTY, ETCD, ETCD_SERIALIZABLE, OURS
from benchmarks.goals import GOALS, Goal, Outcome, outcomes
from benchmarks.measure import Effort, Figure, Measured, Report, Table, in_turns
from benchmarks.placement import FREE, PINNED

VALUES = st.lists(st.floats(min_value=1e-3, max_value=1e6), min_size=1, max_size=9).map(tuple)


def table(key: str, *figures: Figure, placement: str = PINNED, more: bool = True) -> Table:
    return Table(key, key.capitalize(), "answers/s", figures, more_is_better=more, placement=placement)


@given(VALUES, st.floats(min_value=0.1, max_value=10))
def test_a_ratio_is_taken_within_each_round(values: tuple[float, ...], factor: float) -> None:
    other = Figure("other", values)
    ours = Figure("ours", tuple(value * factor for value in values))
    assert ours.ratio(other) == pytest.approx(factor)
    assert other.ratio(ours) == pytest.approx(1 / factor)


def test_sides_take_turns_and_the_first_round_is_discarded() -> None:
    calls: list[str] = []

    def side(name: str, value: float) -> Measured:
        calls.append(name)
        return Measured(value, errors=1, busy=0.5)

    sides = {name: lambda _seconds, name=name: side(name, len(calls)) for name in "ab"}
    first, second = in_turns(sides, Effort(rounds=2, seconds=1))
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert (first.values, second.values) == ((2, 5), (3, 4))
    assert (first.errors, first.busy) == (2, 0.5)


@pytest.mark.parametrize(
    ("ratio", "at_most", "verdict"), [(1.5, False, "met"), (1.4, False, "not met"), (1.4, True, "met")]
)
def test_a_verdict_follows_from_the_ratio(ratio: float, at_most: bool, verdict: str) -> None:
    assert Outcome(Goal("goal", "key", "other", 1.5, at_most), ratio).verdict == verdict


def test_a_goal_is_judged_at_its_placement_alone() -> None:
    tables = [
        table("grpc.get.many", Figure(OURS, (30.0,)), Figure(ETCD_SERIALIZABLE, (10.0,)), Figure(ETCD, (10.0,))),
        table("grpc.get.many", Figure(OURS, (6.0,)), Figure(ETCD, (10.0,)), placement=FREE.name),
    ]
    found = {one.goal.text: one for one in outcomes(tables)}
    assert found["GetConfig next to etcd's serializable Range, per core"].ratio == 3
    assert found["GetConfig next to etcd's Range, any core"].verdict == "not met"
    assert found["EvaluateFlag next to the flag server, per core"].verdict == "not measured"
    assert len(found) == len(GOALS)


def test_the_largest_size_is_compared_with_the_smallest() -> None:
    sizes = table("sizes.get", Figure("small", (10.0,)), Figure("middle", (50.0,)), Figure("large", (12.0,)))
    (found,) = outcomes([sizes])[len(GOALS) :]
    assert (found.ratio, found.verdict) == (1.2, "met")


def test_the_report_says_what_is_missing_and_which_answers_were_wrong(tmp_path: Path) -> None:
    busy = Figure(ETCD, (10.0, 20.0), errors=7, busy=0.97)
    found = Report(
        [table("grpc.get.many", Figure(OURS, (30.0, 40.0)), busy)], {"Eureka": "no\nJava"}, {"etcd": "3.7.3"}
    )
    text = report.markdown(found, "figures.svg")
    assert "- Eureka: no Java" in text
    assert "| etcd | 15.0 | 10.0 | 20.0 | 0.42 | 7 |" in text
    assert "busy for 97% of a core with 'etcd'" in text
    assert "etcd 3.7.3." in text
    figures = json.loads(report.as_json(found))["tables"][0]["figures"]
    assert [(one["side"], one["errors"], one["rounds"]) for one in figures] == [
        (OURS, 0, [30.0, 40.0]),
        (ETCD, 7, [10.0, 20.0]),
    ]


def test_the_chart_has_each_peer_once_and_no_empty_call(tmp_path: Path) -> None:
    sides = (Figure(OURS, (30.0,)), Figure(ETCD, (10.0,)), Figure(EMPTY, (60.0,)))
    tables = [table("grpc.get.many", *sides), table("grpc.get.many", *sides, placement=FREE.name)]
    file = tmp_path / "chart.svg"
    assert chart.draw([*tables, table("watch.1", *sides, more=False)], file)
    text = file.read_text()
    assert text.count("· etcd") == 2
    assert "3×" in text
    assert "0.33×" in text
    assert EMPTY not in text
    assert not chart.draw([table("grpc.get.many", Figure(OURS, (30.0,)))], tmp_path / "none.svg")
