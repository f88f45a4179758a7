"""The goals, as ratios within one run: met or not, with the figure.

Each names two sides of one table. A goal whose table or side is missing is "not measured".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.comparisons.sides import (
    EMPTY,
    ETCD,
    ETCD_SERIALIZABLE,
    EUREKA,
    GROUP_COMMIT,
    KAZOO,
    OURS,
    PGBENCH,
    UNLEASH,
)
from benchmarks.measure import Table
from benchmarks.placement import FREE, PINNED

LEVEL = 1.0
# A million next to a thousand.
FLAT = 1.3


@dataclass(frozen=True, slots=True)
class Goal:
    """The ratio of this service's figure to another side's, at least or at most a value."""

    text: str
    table: str
    other: str
    value: float
    at_most: bool = False
    side: str = OURS
    placement: str = PINNED


@dataclass(frozen=True, slots=True)
class Outcome:
    """A goal's ratio; None if it was not measured."""

    goal: Goal
    ratio: float | None

    @property
    def met(self) -> bool:
        """Whether the ratio is as the goal says."""
        if self.ratio is None:
            return False
        return self.ratio <= self.goal.value if self.goal.at_most else self.ratio >= self.goal.value

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return "not measured" if self.ratio is None else "met" if self.met else "not met"

    @property
    def bound(self) -> str:
        """For example "≥ 1.50"."""
        return f"{'≤' if self.goal.at_most else '≥'} {self.goal.value:.2f}"


GOALS: Sequence[Goal] = (
    Goal("GetConfig next to etcd's serializable Range, per core", "grpc.get.many", ETCD_SERIALIZABLE, 1.5),
    *(
        Goal(f"{name} next to an empty call of the same engine", f"grpc.{key}.many", EMPTY, 0.85)
        for key, name in (("get", "GetConfig"), ("evaluate", "EvaluateFlag"), ("discover", "DiscoverInstances"))
    ),
    Goal("GetConfig next to etcd's Range, any core", "grpc.get.many", ETCD, 0.7, placement=FREE.name),
    Goal("EvaluateFlag next to the flag server, per core", "grpc.evaluate.many", UNLEASH, LEVEL),
    *(
        Goal(f"{count:,} flags in one call next to the flag server", f"batch.{count}.many", UNLEASH, 5)
        for count in (100, 1_000)
    ),
    Goal("DiscoverInstances next to Eureka, per core", "grpc.discover.many", EUREKA, LEVEL),
    Goal("GetConfig by REST next to etcd's gateway", "rest.get.many", ETCD, LEVEL),
    Goal("Updates, 64 in flight, next to group commit alone", "grpc.update.many", GROUP_COMMIT, 0.6),
    Goal("An update alone next to its transaction", "grpc.update.one", PGBENCH, 1.4, at_most=True),
    *(
        Goal(f"The last of {count:,} watchers next to etcd's", f"watch.{count}", ETCD, LEVEL, at_most=True)
        for count in (1_000, 5_000)
    ),
    Goal("Registrations, 64 in flight, next to kazoo alone", "registry.register.many", KAZOO, 0.5),
    Goal("Discoveries, 64 in flight, next to kazoo alone", "registry.discover.many", KAZOO, 10),
)


def outcomes(tables: Sequence[Table]) -> list[Outcome]:
    """All goals, with those of the sizes."""
    return [*(_outcome(goal, tables) for goal in GOALS), *_of_sizes(tables)]


def _outcome(goal: Goal, tables: Sequence[Table]) -> Outcome:
    for table in tables:
        if table.key == goal.table and table.placement == goal.placement:
            ours, other = table.figure(goal.side), table.figure(goal.other)
            if ours and other:
                return Outcome(goal, ours.ratio(other))
    return Outcome(goal, None)


def _of_sizes(tables: Sequence[Table]) -> Iterator[Outcome]:
    for table in tables:
        if table.key.startswith("sizes."):
            smallest, largest = table.figures[0], table.figures[-1]
            goal = Goal(f"{table.title}: {largest.side}", table.key, smallest.side, FLAT, at_most=True)
            yield Outcome(goal, largest.ratio(smallest))
