"""Each operator with attributes of the right type, of other types, and without the attribute."""

import ipaddress
import itertools
import math
from typing import Any

import pytest
from configsvc_client.evaluation import Context, FlagSet, Reason
from configsvc_client.evaluation.conditions import OPERATORS, compile_condition
from configsvc_client.evaluation.operands import instant
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.samples import (
    ENVIRONMENT,
    condition,
    contexts,
    evaluate,
    flag,
    json_values,
    no_deadline,
    rule,
    valid_conditions,
)

Json = Any
HUGE = 10**400


def holds(operator: str, operands: list[Json], value: Json, *, negate: bool = False) -> bool:
    return compile_condition("x", operator, operands, negate)("", {"x": value})


EXAMPLES: list[tuple[str, list[Json], list[Json], list[Json]]] = [
    # operator, operands, attribute values that match, values that do not.
    ("equals", ["de"], ["de", ["fr", "de"], ("de",)], ["DE", "de ", "", 5, True, [], ["fr"], {"de": 1}, [["de"]]]),
    ("equals", [1], [1, 1.0, [1]], [True, "1", 2, math.nan, HUGE]),
    ("equals", [True], [True], [1, 1.0, "true", False]),
    ("equals", [0.1], [0.1], [0.1000001, "0.1"]),
    # The server gets doubles, so the client has to compare doubles, too.
    ("equals", [2**53 - 1], [2**53 - 1, float(2**53 - 1)], [2**53, HUGE]),
    ("in", ["de", 5, False], ["de", 5, 5.0, False, ["x", 5]], ["5", True, 0, "fr", math.nan]),
    ("contains", ["ell", "zz"], ["hello", "pizza zz", ["x", "bell"]], ["HELLO", "el l", 5, True, {"ell": 1}]),
    ("starts_with", ["ab", "x"], ["abc", "ab", "xyz"], ["a", " ab", 1]),
    ("ends_with", ["@a.org"], ["bob@a.org"], ["bob@a.org ", "a.org", 1]),
    ("matches", ["^v[0-9]+$"], ["v1", "v12", ["x", "v2"]], ["v", "xv1", "v1\n", 1, "\ud800"]),
    ("matches", ["(?i)bob", "x$"], ["BoB", "abobx"], ["ob", "xy"]),
    ("matches", ["é."], ["aéb"], ["ae"]),
    ("less_than", [5], [4, 4.9, -math.pi], [5, 5.0, 6, "4", True, False, math.nan, -math.inf, HUGE]),
    ("less_or_equal", [5], [5, 5.0, 4], [5.1, "5", None]),
    ("greater_than", [5], [6, 5.1, 10**20], [5, "6", True, math.inf, HUGE]),
    ("greater_or_equal", [0.5], [0.5, 1], [0.4, True]),
    ("semver_equals", ["2.1.0"], ["2.1.0", "2.1", "2.1.0+build.5"], ["2.1.0-a", "v2.1.0", "2.01.0", "2.1.0.0", 2.1]),
    ("semver_less_than", ["1.0.0"], ["1.0.0-rc.1", "0.9.10", "0.10"], ["1.0.0", "1", "1.0.1", "x", 0]),
    ("semver_less_than", ["1.0.0-beta.11"], ["1.0.0-beta.2", "1.0.0-alpha.beta"], ["1.0.0-rc.1", "1.0.0-beta.11.1"]),
    ("semver_less_than", ["1.0.0-beta.a"], ["1.0.0-beta.9999", "1.0.0-beta"], ["1.0.0-beta.b", "1.0.0-beta.a.1"]),
    ("semver_less_or_equal", ["1.2"], ["1.2.0", "1.1.99"], ["1.2.1"]),
    ("semver_greater_than", ["1.9.0"], ["1.10.0", "2"], ["1.9.0", "1.9.1-01", "9" * 5000]),
    ("semver_greater_or_equal", ["1.9.0"], ["1.9.0"], ["1.9.0-z"]),
    (
        "before",
        ["2026-01-01T00:00:00Z"],
        ["2025-12-31T23:59:59.999999999Z", "2026-01-01T00:30:00+01:00", "2025-12-31t23:59:59z", "2025-12-30T23:59:60Z"],
        ["2026-01-01T00:00:00Z", "2026-01-01", "2025-13-01T00:00:00Z", "0000-01-01T00:00:00Z", 0, "x"],
    ),
    (
        "after",
        ["2026-01-01T00:00:00Z"],
        ["2026-01-01T00:00:00.000000001Z", "2025-12-31T23:30:00-01:00"],
        ["2026-01-01T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", True],
    ),
    (
        "cidr",
        ["10.0.0.0/8", "192.168.1.7", "2001:db8::/32"],
        ["10.1.2.3", "192.168.1.7", "2001:db8::1", "::ffff:10.0.0.1"],
        ["11.0.0.1", "192.168.1.8", "10.0.0.0/8", "010.0.0.1", "::a00:1", 167772161, "x"],
    ),
    (
        "cidr",
        ["::ffff:10.0.0.0/104", "::ffff:192.168.1.7", "::ffff:c633:6400/120"],
        ["10.1.2.3", "::ffff:10.0.0.1", "192.168.1.7", "198.51.100.9"],
        ["11.0.0.1", "192.168.1.8", "198.51.101.9", "::a00:1", "2001:db8::1"],
    ),
    ("cidr", ["::ffff:0:0/96"], ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::1", "::fffe:1.2.3.4"]),
    ("cidr", ["::/0"], ["::1", "2001:db8::1"], ["10.0.0.1", "::ffff:10.0.0.1"]),
    ("less_than", [2**53 - 1], [2**53 - 2, -(2**60)], [2**53 - 1, 2**53, 2**53 + 1, 2**60]),
    ("present", [], ["", 0, False, [], {}], [None]),
    ("absent", [], [None], ["", 0, False, [], {}]),
]
MATCHING = [(o, operands, value) for o, operands, good, _ in EXAMPLES for value in good]
OTHERS = [(o, operands, value) for o, operands, _, bad in EXAMPLES for value in bad]


@pytest.mark.parametrize(("operator", "operands", "value"), MATCHING)
def test_operator_matches(operator: str, operands: list[Json], value: Json) -> None:
    assert holds(operator, operands, value)


@pytest.mark.parametrize(("operator", "operands", "value"), OTHERS)
def test_operator_does_not_match_other_values_or_types(operator: str, operands: list[Json], value: Json) -> None:
    assert not holds(operator, operands, value)


@pytest.mark.parametrize(("operator", "operands", "value"), MATCHING + OTHERS)
def test_negation_inverts_the_result_for_present_attributes(operator: str, operands: list[Json], value: Json) -> None:
    if value is None and operator not in ("present", "absent"):
        return
    assert holds(operator, operands, value, negate=True) is not holds(operator, operands, value)


def test_examples_cover_every_operator() -> None:
    assert {e[0] for e in EXAMPLES} | {"not_equals", "not_in"} == set(OPERATORS)


@pytest.mark.parametrize(("inverted", "plain"), [("not_equals", "equals"), ("not_in", "in")])
@pytest.mark.parametrize("value", ["de", "fr", 5, True, None, [], ["de"], {}, math.nan])
@pytest.mark.parametrize("negate", [False, True])
def test_not_operators_mean_the_same_as_negate(inverted: str, plain: str, value: Json, negate: bool) -> None:
    assert holds(inverted, ["de"], value, negate=negate) is holds(plain, ["de"], value, negate=not negate)


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("attributes", [{}, {"x": None}])
def test_missing_attribute_matches_nothing_negated_or_not(attributes: dict[str, Json], negate: bool) -> None:
    for operator, operands, *_ in EXAMPLES:
        if operator not in ("present", "absent"):
            assert not compile_condition("x", operator, operands, negate)("u", attributes)


def test_user_id_attribute_is_the_contexts_user_id_and_not_an_attribute() -> None:
    only_bob = flag(rules=[rule(condition("user_id", "equals", "bob"))])
    assert evaluate(only_bob, "bob").value is True
    assert FlagSet(ENVIRONMENT, [only_bob]).evaluate("f", Context("eve", {"user_id": "bob"})).value is False


def test_empty_user_id_is_absent() -> None:
    anonymous = flag(rules=[rule(condition("user_id", "absent"))])
    assert evaluate(anonymous, "").reason is Reason.TARGETING_MATCH
    assert evaluate(anonymous, "u").reason is Reason.DEFAULT
    negated = flag(rules=[rule(condition("user_id", "equals", "bob", negate=True))])
    assert evaluate(negated, "").value is False


def test_rule_matches_only_if_all_conditions_hold() -> None:
    both = flag(rules=[rule(condition("a", "equals", 1), condition("b", "equals", 2))])
    for a, b in itertools.product((1, 2), (1, 2)):
        assert evaluate(both, a=a, b=b).value is (a == 1 and b == 2)


@pytest.mark.parametrize("digits", range(1, 21))
def test_fraction_of_a_second_is_cut_off_after_nanoseconds(digits: int) -> None:
    fraction = "12345678901234567890"[:digits]
    nanoseconds = int(fraction[:9].ljust(9, "0"))
    assert instant(f"2026-01-01T00:00:00.{fraction}Z") == instant("2026-01-01T00:00:00Z") + nanoseconds  # type: ignore[operator]


def test_pattern_takes_linear_time() -> None:
    assert not holds("matches", ["^(a+)+$"], "a" * 20_000 + "b")


@no_deadline
@given(valid_conditions(), contexts())
def test_no_context_makes_a_condition_raise(c: Json, context: Context) -> None:
    test = compile_condition(c["attribute"], c["operator"], c["values"], c["negate"])
    assert test(context.user_id, context.attributes) in (True, False)


@no_deadline
@given(st.sampled_from(EXAMPLES), json_values() | st.floats() | st.integers() | st.binary() | st.dates() | st.text())
def test_no_attribute_value_makes_an_operator_raise(
    example: tuple[str, list[Json], list[Json], list[Json]], value: Json
) -> None:
    assert holds(example[0], example[1], value) in (True, False)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_network_in_ipv4_mapped_form_matches_like_the_network(address: int, prefix: int, other: int) -> None:
    network = ipaddress.IPv4Network((address, prefix), strict=False)
    mapped = f"::ffff:{network.network_address}/{96 + prefix}"
    for inside in (ipaddress.IPv4Address(address), ipaddress.IPv4Address(other)):
        for form in (str(inside), f"::ffff:{inside}"):
            assert holds("cidr", [mapped], form) is holds("cidr", [str(network)], form) is (inside in network)
