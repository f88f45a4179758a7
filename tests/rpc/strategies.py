"""Configurations, flags and registrations of every kind that the service accepts, as hypothesis strategies."""

from typing import Any

from hypothesis import strategies as st

EXACT = 2**53 - 1
# UTF-8 can carry everything except lone surrogates. NUL is included: JSON has it as text.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# Labels have no control characters either.
LABEL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
NUMBERS = (
    st.integers(-EXACT, EXACT)
    | st.sampled_from([0.0, -0.0, 5e-324, -1.5e-300, 0.1, 1e15 + 0.5, EXACT, -EXACT])
    | st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda n: not n.is_integer())
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
JSON = st.recursive(
    SCALARS | st.sampled_from([[], {}, "", [[]], [{}], {"": None}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def nested(levels: int, inner: Any, *, lists: bool) -> Any:
    """JSON with so many levels around `inner`."""
    for _ in range(levels):
        inner = [inner] if lists else {"a": inner}
    return inner


DEEP = st.builds(nested, st.integers(25, 30), SCALARS, lists=st.booleans())

# The values of a flag have no NUL.
FLAG_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FLAG_JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | FLAG_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FLAG_TEXT, inner, max_size=4),
    max_leaves=8,
)
VALUES = {
    "boolean": st.booleans(),
    "string": FLAG_TEXT,
    "number": NUMBERS,
    "object": st.lists(FLAG_JSON, max_size=4) | st.dictionaries(FLAG_TEXT, FLAG_JSON, max_size=4),
}
CONDITIONS = (
    st.fixed_dictionaries(
        {
            "attribute": LABEL,
            "operator": st.sampled_from(["equals", "in", "not_in"]),
            "values": st.lists(st.booleans() | NUMBERS | LABEL, min_size=1, max_size=1),
            "negate": st.booleans(),
        }
    )
    | st.fixed_dictionaries(
        {"attribute": LABEL, "operator": st.just("in"), "values": st.lists(NUMBERS | LABEL, min_size=1, max_size=4)}
    )
    | st.sampled_from(
        [
            {"attribute": "a", "operator": "present"},
            {"attribute": "v", "operator": "semver_less_than", "values": ["1.2.3-rc.1"]},
            {"attribute": "at", "operator": "before", "values": ["2026-01-02T03:04:05Z"]},
            {"attribute": "ip", "operator": "cidr", "values": ["10.0.0.0/8", "::1/128"], "negate": True},
            {"attribute": "mail", "operator": "matches", "values": [r".*@x\.y$"]},
            {"attribute": "n", "operator": "less_than", "values": [-0.5]},
        ]
    )
)


@st.composite
def flags(draw: Any) -> dict[str, Any]:
    """The JSON of a flag, without name and environment."""
    kind = draw(st.sampled_from(sorted(VALUES)))
    names = draw(st.lists(LABEL, min_size=1, max_size=3, unique=True))
    one_of = st.sampled_from(names)
    split = st.lists(one_of, min_size=1, max_size=3, unique=True).map(
        lambda chosen: [{"variant": name, "weight": 1 + number} for number, name in enumerate(chosen)]
    )
    rule = st.fixed_dictionaries({"name": st.just("") | LABEL, "conditions": st.lists(CONDITIONS, max_size=2)}).flatmap(
        lambda rule: one_of.map(lambda v: {**rule, "variant": v}) | split.map(lambda s: {**rule, "split": s})
    )
    return {
        "enabled": draw(st.booleans()),
        "value_type": kind,
        "variants": [{"name": name, "value": draw(VALUES[kind])} for name in names],
        "default_variant": draw(one_of),
        "off_variant": draw(st.just("") | one_of),
        "on_variant": draw(one_of),
        "rollout_percentage": draw(st.integers(0, 100_000)) / 1000,
        "rollout_split": draw(st.just([]) | split),
        "targeted_users": draw(st.lists(LABEL, max_size=4)),
        "bucket_by": draw(st.just("") | LABEL),
        "rules": draw(st.lists(rule, max_size=3)),
        "description": draw(LABEL),
        "tags": draw(st.lists(LABEL, max_size=3)),
        "owner": draw(st.just("") | LABEL),
        "sticky": draw(st.booleans()),
    }


registrations = st.fixed_dictionaries(
    {
        "service_url": st.sampled_from(["http://127.0.0.1:1/a", "tcp://[::1]:9", "grpc://h:1", "https://x/y?z=1"]),
        "metadata": st.dictionaries(LABEL, TEXT.filter(lambda t: t.isprintable()), max_size=4),
        "weight": st.integers(1, 1_000_000),
        "zone": st.just("") | LABEL,
        "version": st.just("") | LABEL,
        "lease_ttl_seconds": st.integers(60, 86_400),
    }
)
