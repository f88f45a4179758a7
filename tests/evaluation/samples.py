"""Flags and contexts for the tests of evaluation, and strategies that make valid ones."""

from typing import Any

from configsvc_client.evaluation import Context, Evaluation, Flag, FlagSet
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Json = Any
ENVIRONMENT = "test"

# The time of an example depends on the machine, not on the code.
no_deadline = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

COLOURS: Json = {
    "value_type": "string",
    "variants": [{"name": name, "value": name.upper()} for name in ("red", "green", "blue")],
    "default_variant": "red",
}


def flag_json(**members: Json) -> dict[str, Json]:
    return {"name": "f", "environment": ENVIRONMENT, "enabled": True, "salt": "f-1", **members}


def flag(**members: Json) -> Flag:
    return Flag.from_json(flag_json(**members))


def evaluate(subject: Flag, user_id: str = "u", *, explain: bool = False, **attributes: Json) -> Evaluation:
    return FlagSet(ENVIRONMENT, [subject]).evaluate(subject.name, Context(user_id, attributes), explain)


def condition(attribute: str, operator: str, *values: Json, negate: bool = False) -> Json:
    return {"attribute": attribute, "operator": operator, "values": list(values), "negate": negate}


def rule(*conditions: Json, **serves: Json) -> Json:
    return {"conditions": list(conditions), **(serves or {"variant": "on"})}


def arm(variant: str, weight: int) -> Json:
    return {"variant": variant, "weight": weight}


def scalars() -> st.SearchStrategy[Json]:
    exact = st.integers(-(2**53) + 1, 2**53 - 1)
    return st.none() | st.booleans() | exact | st.floats(-1e6, 1e6) | texts()


def texts(least: int = 0) -> st.SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=least, max_size=8)


def json_values() -> st.SearchStrategy[Json]:
    return st.recursive(
        scalars(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3),
        max_leaves=8,
    )


def names() -> st.SearchStrategy[str]:
    return st.sampled_from(["a", "b", "c", "d"])


def attribute_names() -> st.SearchStrategy[str]:
    return st.sampled_from(["user_id", "country", "plan", "app"])


def contexts() -> st.SearchStrategy[Context]:
    values = (
        st.sampled_from(["de", "fr", "2.1.0", "10.0.0.1", "", 5, 5.0, True, None, ["de"], {"x": 1}]) | json_values()
    )
    return st.builds(
        Context,
        st.sampled_from(["", "u1", "u2", "10.0.0.1"]) | texts(),
        st.dictionaries(attribute_names(), values, max_size=4),
    )


def valid_conditions() -> st.SearchStrategy[Json]:
    few = [
        ("equals", ["de"]),
        ("not_equals", [5]),
        ("in", ["de", 5, True]),
        ("not_in", ["fr"]),
        ("contains", ["e"]),
        ("starts_with", ["d", "u"]),
        ("ends_with", ["r"]),
        ("matches", ["^d", "[0-9]+"]),
        ("less_than", [6]),
        ("greater_or_equal", [5.5]),
        ("semver_less_than", ["2.1.1-beta"]),
        ("before", ["2026-01-01T00:00:00Z"]),
        ("cidr", ["10.0.0.0/8", "::1"]),
        ("present", []),
        ("absent", []),
    ]
    return st.builds(
        lambda attribute, pair, negate: condition(attribute, pair[0], *pair[1], negate=negate),
        attribute_names(),
        st.sampled_from(few),
        st.booleans(),
    )


@st.composite
def valid_flags(draw: st.DrawFn, name: str = "f", others: tuple[str, ...] = ()) -> Flag:
    """A valid flag of any type, whose prerequisites are among `others`."""
    value_type = draw(st.sampled_from(["boolean", "string", "number", "object"]))
    values: Json = {
        "boolean": st.booleans(),
        "string": texts(),
        "number": st.integers(-100, 100) | st.floats(-1e6, 1e6),
        "object": st.dictionaries(texts(), json_values(), max_size=3) | st.lists(json_values(), max_size=3),
    }[value_type]
    variants: Json = []
    served = ["on", "off"]
    if value_type != "boolean" or draw(st.booleans()):
        served = draw(st.lists(names(), min_size=1, unique=True))
        variants = [{"name": variant, "value": draw(values)} for variant in served]
    one = st.sampled_from(served)
    weights = st.integers(0, 1_000_000)
    splits = st.lists(st.builds(arm, one, weights), max_size=4, unique_by=lambda a: str(a["variant"])).filter(
        lambda arms: not arms or sum(a["weight"] for a in arms) > 0
    )
    rules = st.one_of(
        st.builds(lambda c, v: rule(*c, variant=v), st.lists(valid_conditions(), max_size=3), one),
        st.builds(lambda c, s: rule(*c, split=s), st.lists(valid_conditions(), max_size=3), splits.filter(bool)),
    )
    required = st.lists(st.sampled_from(others), max_size=2) if others else st.just([])
    accepted = st.lists(st.sampled_from(["on", "off", "a", "b"]), min_size=1, max_size=2)
    return flag(
        name=name,
        enabled=draw(st.integers(0, 4)) > 0,
        value_type=value_type,
        variants=variants,
        default_variant=draw(one) if variants else draw(st.sampled_from(["", "on", "off"])),
        off_variant=draw(one | st.just("")),
        on_variant=draw(one) if variants else "",
        rollout_percentage=draw(st.sampled_from([0, 100]) | st.integers(0, 100_000).map(lambda steps: steps / 1000)),
        rollout_split=draw(splits),
        targeted_users=draw(st.lists(st.sampled_from(["u1", "u2"]) | texts(1), max_size=3)),
        bucket_by=draw(st.just("") | attribute_names()),
        rules=draw(st.lists(rules, max_size=3)),
        prerequisites=[{"flag_name": other, "variants": draw(accepted)} for other in draw(required)],
        salt=draw(texts()),
        description=draw(texts()),
        tags=draw(st.lists(texts(1), max_size=2)),
        owner=draw(texts()),
        version=draw(st.integers(0, 2**31 - 1)),
    )
