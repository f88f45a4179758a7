"""Conditions: one test on one attribute of the context, compiled to a closure.

What a condition means if the context is not as its author expected. These are LaunchDarkly's rules, so
that flags moved from there keep their meaning:

- An attribute that is missing, or null, matches nothing, negated or not. Only `absent` holds for it
  (and `present` negated). An empty `user_id` is a missing one.
- An attribute of a type that the operator can't compare does not match, so the negated condition holds:
  `plan not_equals "free"` holds if plan is 5. Nothing that a context contains raises.
- A list matches if any of its elements does; negated, if none does. So `equals` and `in` are
  membership on a list attribute. An empty list is present and matches nothing.
- Numbers are doubles, as in JSON and protobuf, on the server and in the client alike:
  1 equals 1.0. Booleans are not numbers; NaN and infinities have no type.
- Text is compared by code point: case counts, and nothing is normalised.
"""

import operator as comparison
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from configsvc_client.evaluation import limits, networks, patterns
from configsvc_client.evaluation import operands as parse
from configsvc_client.evaluation.operands import Json

# Whether one attribute value, not null and not a list, matches one of the operands.
Match = Callable[[Json], bool]
# Whether a condition holds for (user id, attributes).
Predicate = Callable[[str, Mapping[str, Json]], bool]

USER_ID: Final = "user_id"


@dataclass(frozen=True, slots=True)
class Operator:
    """How an operator parses its operands, how many it takes, and which attribute values match them."""

    parse_operand: Callable[[Json], Any]
    match: Callable[[Sequence[Any]], Match]
    least: int = 1
    most: int = 1
    # `not_equals` and `not_in`: the same as the operator without `not_`, negated.
    inverted: bool = False


def _one_of(operands: Sequence[bool | float | str]) -> Match:
    # Kept apart by type, since True == 1 in Python and not in JSON.
    texts = frozenset(o for o in operands if isinstance(o, str))
    booleans = frozenset(o for o in operands if isinstance(o, bool))
    numbers = frozenset(o for o in operands if isinstance(o, float))

    def match(value: Json) -> bool:
        if isinstance(value, str):
            return value in texts
        if isinstance(value, bool):
            return value in booleans
        return parse.number(value) in numbers

    return match


def _contains(operands: Sequence[str]) -> Match:
    return lambda value: isinstance(value, str) and any(o in value for o in operands)


def _starts_with(operands: Sequence[str]) -> Match:
    prefixes = tuple(operands)
    return lambda value: isinstance(value, str) and value.startswith(prefixes)


def _ends_with(operands: Sequence[str]) -> Match:
    suffixes = tuple(operands)
    return lambda value: isinstance(value, str) and value.endswith(suffixes)


def _matches(operands: Sequence[Callable[[bytes], object]]) -> Match:
    def match(value: Json) -> bool:
        if not isinstance(value, str):
            return False
        try:
            data = value.encode()
        except UnicodeEncodeError:
            return False
        return any(search(data) for search in operands)

    return match


def _within(operands: Sequence[tuple[int, int, int]]) -> Match:
    # One look-up for each length of prefix, however many networks there are.
    by_prefix: dict[tuple[int, int], set[int]] = {}
    for family, host_bits, network in operands:
        by_prefix.setdefault((family, host_bits), set()).add(network)
    table = tuple((family, bits, frozenset(numbers)) for (family, bits), numbers in by_prefix.items())

    def match(value: Json) -> bool:
        address = networks.address(value)
        if address is None:
            return False
        family, number = address
        return any(family == f and number >> bits in known for f, bits, known in table)

    return match


def _always(_operands: Sequence[Any]) -> Match:
    return lambda _value: True


def _comparing(parse_attribute: Callable[[Json], Any], holds: Callable[[Any, Any], bool]) -> Callable[..., Match]:
    def compile_match(operands: Sequence[Any]) -> Match:
        (operand,) = operands

        def match(value: Json) -> bool:
            parsed = parse_attribute(value)
            return parsed is not None and holds(parsed, operand)

        return match

    return compile_match


def _numeric(holds: Callable[[Any, Any], bool]) -> Operator:
    return Operator(parse.number_operand, _comparing(parse.number, holds))


def _semver(holds: Callable[[Any, Any], bool]) -> Operator:
    return Operator(parse.version_operand, _comparing(parse.version, holds))


def _dated(holds: Callable[[Any, Any], bool]) -> Operator:
    return Operator(parse.instant_operand, _comparing(parse.instant, holds))


def _scanned(parse_operand: Callable[[Json], Any], match: Callable[[Sequence[Any]], Match]) -> Operator:
    return Operator(parse_operand, match, most=limits.SCANNED_VALUES)


_scalar = parse.scalar_operand
_many: Final = limits.CONDITION_VALUES

OPERATORS: Final[Mapping[str, Operator]] = {
    "equals": Operator(_scalar, _one_of),
    "not_equals": Operator(_scalar, _one_of, inverted=True),
    "in": Operator(_scalar, _one_of, most=_many),
    "not_in": Operator(_scalar, _one_of, most=_many, inverted=True),
    "contains": _scanned(parse.text_operand, _contains),
    "starts_with": _scanned(parse.text_operand, _starts_with),
    "ends_with": _scanned(parse.text_operand, _ends_with),
    "matches": _scanned(patterns.pattern_operand, _matches),
    "less_than": _numeric(comparison.lt),
    "less_or_equal": _numeric(comparison.le),
    "greater_than": _numeric(comparison.gt),
    "greater_or_equal": _numeric(comparison.ge),
    "semver_equals": _semver(comparison.eq),
    "semver_less_than": _semver(comparison.lt),
    "semver_less_or_equal": _semver(comparison.le),
    "semver_greater_than": _semver(comparison.gt),
    "semver_greater_or_equal": _semver(comparison.ge),
    "before": _dated(comparison.lt),
    "after": _dated(comparison.gt),
    "cidr": Operator(networks.network_operand, _within, most=_many),
    "present": Operator(_scalar, _always, least=0, most=0),
    "absent": Operator(_scalar, _always, least=0, most=0),
}


def problems(operator: str, values: Sequence[Json]) -> Iterator[tuple[str, str]]:
    """What is wrong with an operator and its operands: (path inside the condition, what is allowed)."""
    known = OPERATORS.get(operator)
    if known is None:
        yield "operator", f"must be one of {', '.join(OPERATORS)}; it is {operator[:64]!r}"
        return
    if not known.least <= len(values) <= known.most:
        if known.most == 0:
            allowed = "no values"
        elif known.most == 1:
            allowed = "exactly one value"
        else:
            allowed = f"{known.least} to {known.most} values"
        yield "values", f"must have {allowed} for {operator!r}; it has {len(values)}"
        return
    for index, value in enumerate(values):
        try:
            known.parse_operand(value)
        except ValueError as error:
            yield f"values[{index}]", f"{error} for {operator!r}"


def compile_condition(attribute: str, operator: str, values: Sequence[Json], negate: bool) -> Predicate:
    """The condition as a predicate, which never raises.

    Raises LookupError for an unknown operator and ValueError for operands that `problems` would name.
    """
    known = OPERATORS[operator]
    if operator in ("present", "absent"):
        return _presence(attribute, (operator == "present") is not negate)
    match = known.match([known.parse_operand(value) for value in values])
    expected = known.inverted is negate

    def of_user(user_id: str, _attributes: Mapping[str, Json]) -> bool:
        return bool(user_id) and match(user_id) is expected

    def of_attribute(_user_id: str, attributes: Mapping[str, Json]) -> bool:
        value = attributes.get(attribute)
        if value is None:
            return False
        if isinstance(value, list | tuple):
            return any(match(element) for element in value) is expected
        return match(value) is expected

    return of_user if attribute == USER_ID else of_attribute


def is_present(attribute: str, user_id: str, attributes: Mapping[str, Json]) -> bool:
    """Whether the context has the attribute. Null is absent, and so is an empty user id."""
    return bool(user_id) if attribute == USER_ID else attributes.get(attribute) is not None


def _presence(attribute: str, expected: bool) -> Predicate:
    return lambda user_id, attributes: is_present(attribute, user_id, attributes) is expected
