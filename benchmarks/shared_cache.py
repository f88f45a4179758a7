"""What an evaluation costs in the process, and what it would cost to look its result up in a cache in Redis instead.

A look-up has to name the context: a digest of user id and attributes, with the flag and the set's revision. Then comes
one round trip, and the result is decoded. It only pays where evaluating is slower than all of that. The look-ups here
always hit, which is the best that can be said for them; a miss evaluates as well, and writes.

Both are measured in coroutines, alone and with many in flight, as time until the next one is done. Alone, the CPU time
of this process is shown as well: a lone look-up mostly waits, and a busy server has no time to wait. (With many in
flight nothing waits, and the two are the same.) A batch is many flags for one context: one round trip, one digest.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from configsvc_client.evaluation import Context, Evaluation, Flag, FlagSet
from redis.asyncio import Redis

from benchmarks.measure import Effort, Figure, Pace, Table, paced, run
from configsvc.app.flags.evaluation import Asked, Outcome, in_process
from configsvc.app.flags.evaluation_cache import SharedEvaluations
from configsvc.cache.redis import RedisCache
from configsvc.clock import SystemClock
from configsvc.domain.json_values import digest
from tests.engines import Valkey

IN_FLIGHT = (1, 64)
ROUND_PART = 0.3
WARM_SECONDS = 0.05
USERS = 200
LIFE = timedelta(minutes=10)
BATCH = 100
TARGETED_USERS = 10_000
REVISION = 7
ENVIRONMENT = "bench"
ATTRIBUTES = {
    **{"country": "fr", "plan": "free", "app_version": "2.1.0", "email": "someone@mail.test", "ip": "198.51.100.7"},
    **{"age": 41, "beta": False, "groups": ["readers", "writers"], "device": "phone", "language": "fr-FR"},
}
SMALL, LARGE = "small", "large"
CONTEXTS = tuple(Context(f"user-{number}", {**ATTRIBUTES, "session": f"s-{number}"}) for number in range(USERS))

# Evaluates, or looks up, for the context with a number.
Way = Callable[[int], Awaitable[object]]


def tables(effort: Effort, valkey: Valkey) -> Sequence[Table]:
    """A small flag, a large one, and a batch."""
    return run(_tables(effort, valkey))


async def _tables(effort: Effort, valkey: Valkey) -> Sequence[Table]:
    async with AsyncExitStack() as stack:
        host, _, port = valkey.address.rpartition(":")
        redis: Any = Redis(host=host, port=int(port), password=valkey.password, max_connections=max(IN_FLIGHT))
        stack.push_async_callback(redis.aclose)
        cache = await stack.enter_async_context(
            RedisCache(host=host, port=int(port), password=valkey.password, clock=SystemClock(), prefix="bench:")
        )
        flags = _flags()
        measured: list[Table] = []
        for what, names in (
            ("a small flag (25 % rollout, two targeted users)", [SMALL]),
            (f"a large flag (20 rules, {TARGETED_USERS:,} targeted users, 3 prerequisites)", [LARGE]),
            (f"{BATCH} small flags in one batch", [f"{SMALL}-{number}" for number in range(BATCH)]),
        ):
            lookups = _Lookups(flags, names)
            await lookups.fill(redis, cache)
            ways = {
                "evaluate in the process": lookups.evaluate,
                "look up: digest, one MGET, decode": lookups.through(redis),
                "look up as the service does (shared evaluations)": lookups.shared(cache),
                "the digest alone": lookups.digest_alone,
            }
            for in_flight in IN_FLIGHT:
                measured += await _compared(f"Evaluation of {what}", ways, in_flight, effort)
        return measured


async def _compared(what: str, ways: Mapping[str, Way], in_flight: int, effort: Effort) -> Sequence[Table]:
    for way in ways.values():
        await paced(way, in_flight, WARM_SECONDS)
    paces: dict[str, list[Pace]] = {name: [] for name in ways}
    for _ in range(effort.rounds):
        for name, way in ways.items():
            paces[name].append(await paced(way, in_flight, effort.seconds * ROUND_PART))
    time = tuple(Figure(name, tuple(pace.microseconds_each for pace in found)) for name, found in paces.items())
    cpu = tuple(Figure(name, tuple(pace.cpu_microseconds_each for pace in found)) for name, found in paces.items())
    title = f"{what}, {in_flight} in flight"
    alone = [Table(f"{title}: CPU time of this process", "µs", cpu)] if in_flight == 1 else []
    return [Table(title, "µs", time), *alone]


class _Lookups:
    """Some flags for one context at a time: evaluated, or found in a cache that has them all."""

    def __init__(self, flags: FlagSet, names: Sequence[str]) -> None:
        self._flags = flags
        self._names = names
        self._number = 0

    def _next(self) -> Context:
        self._number = (self._number + 1) % USERS
        return CONTEXTS[self._number]

    async def evaluate(self, _worker: int) -> list[Evaluation]:
        context = self._next()
        return [self._flags.evaluate(name, context) for name in self._names]

    async def digest_alone(self, _worker: int) -> list[str]:
        return self._keys(self._next())

    def through(self, redis: Any) -> Way:
        async def look_up(_worker: int) -> list[Any]:
            found = await redis.mget(["bench:" + key for key in self._keys(self._next())])
            return [json.loads(payload[20:]) for payload in found]

        return look_up

    def shared(self, cache: RedisCache) -> Way:
        evaluations = SharedEvaluations(in_process, cache, LIFE, lambda _: "h")
        assigned: list[Mapping[str, str]] = [{}] * len(self._names)

        async def look_up(_worker: int) -> Sequence[Outcome]:
            context = self._next()
            return await evaluations(self._flags, [Asked(name, context) for name in self._names], assigned)

        return look_up

    async def fill(self, redis: Any, cache: RedisCache) -> None:
        """Every result for every context, for both ways to look up."""
        for context in CONTEXTS:
            keys = self._keys(context)
            entries = {
                "bench:" + key: b"%020d" % REVISION + _payload(self._flags.evaluate(name, context))
                for key, name in zip(keys, self._names, strict=True)
            }
            await redis.mset(entries)
        leave = self.shared(cache)
        for worker in range(USERS):
            await leave(worker)

    def _keys(self, context: Context) -> list[str]:
        """The set's revision is in the key, so that a change of any flag finds nothing old."""
        who = digest(context.user_id, context.attributes)
        return [f"evaluation:{ENVIRONMENT}:{REVISION}:{name}:{who}" for name in self._names]


def _payload(found: Evaluation) -> bytes:
    told = [found.value, found.variant, found.reason, found.enabled, found.version]
    return json.dumps(told, separators=(",", ":")).encode()


def _flags() -> FlagSet:
    small: Any = {"environment": ENVIRONMENT, "enabled": True, "rollout_percentage": 25, "targeted_users": ["al", "bo"]}
    flags = [Flag.from_json({**small, "name": SMALL, "salt": "small"})]
    flags += [Flag.from_json({**small, "name": f"{SMALL}-{n}", "salt": f"salt-{n}"}) for n in range(BATCH)]
    # Prerequisites are met for all: their cost is an evaluation each.
    needed = [f"needed-{number}" for number in range(3)]
    flags += [Flag.from_json({**small, "name": name, "salt": name, "rollout_percentage": 100}) for name in needed]
    large = {
        **small,
        **{"name": LARGE, "salt": "large", "targeted_users": [f"vip-{number}" for number in range(TARGETED_USERS)]},
        "rules": [_rule(number) for number in range(20)],
        "prerequisites": [{"flag_name": name, "variants": ["on"]} for name in needed],
    }
    return FlagSet(ENVIRONMENT, [*flags, Flag.from_json(large)], REVISION)


def _rule(number: int) -> dict[str, Any]:
    """Of five kinds; each is read to its last condition, and none matches."""
    everyone = {"attribute": "country", "operator": "in", "values": ["fr", "de", "it"]}
    last: Mapping[str, Any] = (
        {"attribute": "plan", "operator": "equals", "values": [f"plan-{number}"]},
        {"attribute": "app_version", "operator": "semver_greater_than", "values": [f"3.{number}.0"]},
        {"attribute": "email", "operator": "matches", "values": [f"^[a-z]+@corp{number}\\."]},
        {"attribute": "ip", "operator": "cidr", "values": [f"10.{number}.0.0/16"]},
        {"attribute": "age", "operator": "less_than", "values": [number]},
    )[number % 5]
    return {"conditions": [everyone, last], "variant": "on"}
