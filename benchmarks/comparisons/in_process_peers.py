"""The same two flags for each library that evaluates in the process, written in that library's usual way.

`rollout`: two targeted users, then 25 %. `rules`: the same after three rules that match none of the users. Every
evaluation builds a new context, because in a server each request has another user.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ldclient
from configsvc_client.evaluation import Context, Flag, FlagSet
from growthbook import GrowthBook
from ldclient.config import Config
from ldclient.integrations import Files
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache

ROLLOUT, RULES = "rollout", "rules"
TARGETED = ("alice", "bob")
# Attributes of the users that no rule matches.
ATTRIBUTES = {"country": "fr", "plan": "free", "app_version": "2.1.0", "email": "someone@mail.test"}
COUNTRIES, PLAN, NEWEST, DOMAIN = ["de", "at", "ch"], "pro", "2.4.0", "@example.com"

# Whether a flag is on for a user.
IsOn = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Peer:
    """A library, and how it is set up."""

    name: str
    opened: Callable[[ExitStack], IsOn]


@contextmanager
def all_ready() -> Iterator[dict[str, IsOn]]:
    """All libraries; this service's is the first."""
    with ExitStack() as stack:
        yield {peer.name: peer.opened(stack) for peer in PEERS}


def _configsvc(stack: ExitStack) -> IsOn:
    rules = [
        {"conditions": [_condition("country", "in", COUNTRIES), _condition("plan", "equals", [PLAN])], "variant": "on"},
        {"conditions": [_condition("app_version", "semver_greater_or_equal", [NEWEST])], "variant": "on"},
        {"conditions": [_condition("email", "ends_with", [DOMAIN])], "variant": "on"},
    ]
    base: Any = {"environment": "test", "enabled": True, "rollout_percentage": 25, "targeted_users": list(TARGETED)}
    flags = FlagSet(
        "test",
        [
            Flag.from_json({**base, "name": ROLLOUT, "salt": "rollout-1"}),
            Flag.from_json({**base, "name": RULES, "salt": "rules-1", "rules": rules}),
        ],
    )
    return lambda flag, user: flags.evaluate(flag, Context(user, ATTRIBUTES)).value is True


def _condition(attribute: str, operator: str, values: list[str]) -> dict[str, Any]:
    return {"attribute": attribute, "operator": operator, "values": values}


def _growthbook(stack: ExitStack) -> IsOn:
    last: list[Any] = [
        {"condition": {"id": {"$in": list(TARGETED)}}, "force": True},
        {"force": True, "coverage": 0.25, "hashAttribute": "id"},
    ]
    rules: list[Any] = [
        {"condition": {"country": {"$in": COUNTRIES}, "plan": PLAN}, "force": True},
        {"condition": {"app_version": {"$vgte": NEWEST}}, "force": True},
        {"condition": {"email": {"$regex": "@example\\.com$"}}, "force": True},
    ]
    features = {
        ROLLOUT: {"defaultValue": False, "rules": last},
        RULES: {"defaultValue": False, "rules": [last[0], *rules, last[1]]},
    }
    client = GrowthBook(features=features)
    stack.callback(client.destroy)

    def is_on(flag: str, user: str) -> bool:
        client.set_attributes({"id": user, **ATTRIBUTES})
        return bool(client.is_on(flag))

    return is_on


def _launchdarkly(stack: ExitStack) -> IsOn:
    def flag(key: str, rules: list[Any]) -> dict[str, Any]:
        share = [{"variation": 0, "weight": 25_000}, {"variation": 1, "weight": 75_000}]
        return {
            **{"key": key, "version": 1, "on": True, "salt": key, "variations": [True, False], "offVariation": 1},
            "targets": [{"variation": 0, "values": list(TARGETED)}],
            "rules": [{"id": str(number), "variation": 0, "clauses": rule} for number, rule in enumerate(rules)],
            "fallthrough": {"rollout": {"variations": share}},
        }

    def clause(attribute: str, operator: str, values: list[str]) -> dict[str, Any]:
        return {"attribute": attribute, "op": operator, "values": values}

    rules = [
        [clause("country", "in", COUNTRIES), clause("plan", "in", [PLAN])],
        # The library has no "greater or equal".
        [clause("app_version", "semVerGreaterThan", [NEWEST])],
        [clause("email", "endsWith", [DOMAIN])],
    ]
    file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "flags.json")
    file.write_text(json.dumps({"flags": {ROLLOUT: flag(ROLLOUT, []), RULES: flag(RULES, rules)}}))
    source = Files.new_data_source(paths=[str(file)])
    client = ldclient.LDClient(Config("none", update_processor_class=source, send_events=False), start_wait=5)
    stack.callback(client.close)

    def is_on(flag: str, user: str) -> bool:
        builder = ldclient.Context.builder(user)
        for name, value in ATTRIBUTES.items():
            builder.set(name, value)
        return bool(client.variation(flag, builder.build(), False))

    return is_on


def _flagd(stack: ExitStack) -> IsOn:
    share: Any = {"fractional": [["on", 25], ["off", 75]]}
    users: Any = {"in": [{"var": "targetingKey"}, list(TARGETED)]}
    pro: Any = {"and": [{"in": [{"var": "country"}, COUNTRIES]}, {"===": [{"var": "plan"}, PLAN]}]}
    new: Any = {"sem_ver": [{"var": "app_version"}, ">=", NEWEST]}
    domain: Any = {"ends_with": [{"var": "email"}, DOMAIN]}

    def flag(targeting: Any) -> dict[str, Any]:
        on_off = {"on": True, "off": False}
        return {"state": "ENABLED", "variants": on_off, "defaultVariant": "off", "targeting": targeting}

    core = FlagdCore()
    rules = {"if": [users, "on", pro, "on", new, "on", domain, "on", share]}
    core.set_flags({"flags": {ROLLOUT: flag({"if": [users, "on", share]}), RULES: flag(rules)}})

    def is_on(flag: str, user: str) -> bool:
        return bool(core.resolve_boolean_value(flag, False, EvaluationContext(user, dict(ATTRIBUTES))).value)

    return is_on


def _unleash(stack: ExitStack) -> IsOn:
    def constraint(name: str, operator: str, **values: Any) -> dict[str, Any]:
        return {"contextName": name, "operator": operator, "inverted": False, **values}

    def strategy(share: int, *constraints: Any) -> dict[str, Any]:
        parameters = {"rollout": str(share), "stickiness": "userId", "groupId": "g"}
        return {"name": "flexibleRollout", "parameters": parameters, "constraints": constraints}

    targeted = strategy(100, constraint("userId", "IN", values=TARGETED))
    rules = [
        strategy(100, constraint("country", "IN", values=COUNTRIES), constraint("plan", "IN", values=[PLAN])),
        strategy(100, constraint("app_version", "SEMVER_GT", value=NEWEST)),
        strategy(100, constraint("email", "STR_ENDS_WITH", values=[DOMAIN])),
    ]
    features = [
        {"name": ROLLOUT, "enabled": True, "strategies": [targeted, strategy(25)]},
        {"name": RULES, "enabled": True, "strategies": [targeted, *rules, strategy(25)]},
    ]
    cache = FileCache("configsvc-benchmark", directory=stack.enter_context(tempfile.TemporaryDirectory()))
    cache.bootstrap_from_dict({"version": 2, "features": features})
    client = UnleashClient(
        "http://127.0.0.1:9/api",
        "configsvc-benchmark",
        cache=cache,
        disable_metrics=True,
        disable_registration=True,
    )
    client.initialize_client(fetch_toggles=False)
    stack.callback(client.destroy)
    return lambda flag, user: bool(client.is_enabled(flag, {"userId": user, "properties": ATTRIBUTES}))


PEERS = (
    Peer("configsvc-client", _configsvc),
    Peer("GrowthBook", _growthbook),
    Peer("LaunchDarkly", _launchdarkly),
    Peer("flagd core", _flagd),
    Peer("Unleash (its engine is in Rust)", _unleash),
)
