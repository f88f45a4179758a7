"""The properties that the published bucketing algorithm promises."""

from collections import Counter
from itertools import pairwise

import pytest
from configsvc_client.evaluation import Context, FlagSet, bucket, split
from configsvc_client.evaluation.bucketing import BUCKETS, length_prefixed, split_point
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.samples import COLOURS, ENVIRONMENT, arm, evaluate, flag, no_deadline, texts

# Critical values of chi-square at p = 0.001. The units are fixed, so the results never vary.
CHI_SQUARE = {1: 10.83, 2: 13.82, 9: 27.88, 99: 148.23}
UNITS = [f"user-{number}" for number in range(20_000)]


def chi_square(observed: list[int], shares: list[float]) -> float:
    total = sum(observed)
    return sum((o - total * s) ** 2 / (total * s) for o, s in zip(observed, shares, strict=True))


@no_deadline
@given(texts(), texts())
def test_bucket_is_a_thousandth_of_a_percent(salt: str, unit: str) -> None:
    assert 0 <= bucket(salt, unit) < BUCKETS


@no_deadline
@given(texts(), texts(), st.lists(st.integers(0, 1_000_000), min_size=1, max_size=100).filter(any))
def test_split_never_gives_an_arm_without_weight(salt: str, unit: str, weights: list[int]) -> None:
    assert weights[split(salt, unit, weights)] > 0


@pytest.mark.parametrize("weights", [[], [0], [0, 0], [-1, 2]])
def test_split_refuses_weights_without_a_positive_sum(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        split("s", "u", weights)


@no_deadline
@given(texts(), texts(), st.integers(0, BUCKETS), st.integers(0, BUCKETS))
def test_raising_a_percentage_never_removes_a_user(salt: str, user: str, one: int, other: int) -> None:
    low, high = (flag(salt=salt, rollout_percentage=steps / 1000) for steps in sorted((one, other)))
    assert not evaluate(low, user).value or evaluate(high, user).value


@no_deadline
@given(texts(), st.integers(1, BUCKETS - 1))
def test_raising_a_percentage_keeps_the_arm_of_a_user(user: str, steps: int) -> None:
    halves = [arm("green", 1), arm("blue", 1)]
    before, after = (
        evaluate(flag(**COLOURS, rollout_percentage=s / 1000, rollout_split=halves), user).variant
        for s in (steps, BUCKETS)
    )
    assert before in ("red", after)


def test_rollout_has_exactly_the_users_whose_bucket_is_below_it() -> None:
    for steps in (1, 12_345, 50_000, 99_999):
        flags = FlagSet(ENVIRONMENT, [flag(rollout_percentage=steps / 1000)])
        for user in UNITS[:2_000]:
            assert flags.evaluate("f", Context(user)).value is (bucket("f-1", user) < steps)


@pytest.mark.parametrize("salt", ["", "new_ui", "checkout-7f3a"])
def test_buckets_are_uniform(salt: str) -> None:
    hundredths = Counter(bucket(salt, unit) * 100 // BUCKETS for unit in UNITS)
    assert chi_square([hundredths[h] for h in range(100)], [0.01] * 100) < CHI_SQUARE[99]


@pytest.mark.parametrize("weights", [[1, 1, 1], [90, 9, 1], [333, 333, 334], [1, 999, 9000]])
def test_split_is_proportional_to_the_weights(weights: list[int]) -> None:
    arms = Counter(split("experiment", unit, weights) for unit in UNITS)
    observed = [arms[position] for position in range(3)]
    assert sum(observed) == len(UNITS)
    assert chi_square(observed, [w / sum(weights) for w in weights]) < CHI_SQUARE[2]


@no_deadline
@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=100).filter(any))
def test_hash_values_are_divided_exactly_by_weight(weights: list[int]) -> None:
    # The arm of weight w has the hashes from ceil(start * 2^32 / total) on: w * 2^32 / total of them, to within one.
    total = sum(weights)
    bounds = [0, *(sum(weights[: i + 1]) for i in range(len(weights)))]
    firsts = [-(-bound * 2**32 // total) for bound in bounds]
    assert firsts[-1] == 2**32
    for weight, (first, following) in zip(weights, pairwise(firsts), strict=True):
        assert abs((following - first) - weight * 2**32 / total) < 1


def test_arms_are_not_skewed_inside_a_small_gate() -> None:
    halves = [arm("green", 1), arm("blue", 1)]
    flags = FlagSet(ENVIRONMENT, [flag(**COLOURS, rollout_percentage=10, rollout_split=halves)])
    served = Counter(flags.evaluate("f", Context(unit)).variant for unit in UNITS)
    inside = served["green"] + served["blue"]
    assert chi_square([inside, served["red"]], [0.1, 0.9]) < CHI_SQUARE[1]
    assert chi_square([served["green"], served["blue"]], [0.5, 0.5]) < CHI_SQUARE[1]


def test_gates_of_two_salts_are_independent() -> None:
    both = Counter((bucket("one", unit) < BUCKETS // 2, bucket("two", unit) < BUCKETS // 2) for unit in UNITS)
    assert chi_square([both[a, b] for a in (True, False) for b in (True, False)], [0.25] * 4) < 16.27


def test_gate_and_split_are_independent() -> None:
    prefix = length_prefixed(b"one")
    tenths = Counter(split_point(prefix, unit.encode(), 10) for unit in UNITS if bucket("one", unit) < 30_000)
    assert chi_square([tenths[t] for t in range(10)], [0.1] * 10) < CHI_SQUARE[9]


def test_lengths_keep_salt_and_unit_apart() -> None:
    assert bucket("ab", "c") != bucket("a", "bc")
    assert bucket("1", ":1:1") != bucket("1:1", ":1")


def test_order_of_the_weights_moves_no_user() -> None:
    arms = [arm("red", 1), arm("green", 2), arm("blue", 3)]
    one, other = (
        FlagSet(ENVIRONMENT, [flag(**COLOURS, rollout_percentage=100, rollout_split=order)])
        for order in (arms, arms[::-1])
    )
    for unit in UNITS[:500]:
        assert one.evaluate("f", Context(unit)) == other.evaluate("f", Context(unit))


def test_two_splits_of_one_flag_agree_about_a_user() -> None:
    halves = [arm("green", 1), arm("blue", 1)]
    by_rule = flag(**COLOURS, rules=[{"split": halves}])
    by_rollout = flag(**COLOURS, rollout_percentage=100, rollout_split=halves)
    for unit in UNITS[:200]:
        assert evaluate(by_rule, unit).variant == evaluate(by_rollout, unit).variant
