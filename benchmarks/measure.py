"""Rounds and figures. Sides take turns, so that the machine's noise affects all of them equally."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

# A round that is discarded warms up connections and code; this part of a full round is enough.
WARM_PART = 0.3


@dataclass(frozen=True, slots=True)
class Effort:
    """The number of rounds, the seconds of one round (of which a comparison may use a part), and the sizes.

    `small`: sizes and numbers of watchers that only show that everything works.
    """

    rounds: int
    seconds: float
    small: bool = False

    def size(self, full: int, small: int) -> int:
        """The size of one thing."""
        return small if self.small else full


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one side. `errors`: answers that were wrong or missing; they do not count in the value.

    `busy`: the share of one core that the load client used; near 1, the client is the limit.
    """

    value: float
    errors: int = 0
    busy: float = 0.0


# Measures one round of one side, of about this many seconds.
Round = Callable[[float], Measured]
AsyncRound = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Figure:
    """The results of one side, round by round."""

    side: str
    values: tuple[float, ...]
    errors: int = 0
    busy: float = 0.0

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    def ratio(self, other: "Figure") -> float:
        """The median of this side's ratio to another side within each round."""
        pairs = zip(self.values, other.values, strict=True)
        return statistics.median(own / theirs if theirs else 0.0 for own, theirs in pairs)


@dataclass(frozen=True, slots=True)
class Table:
    """One quantity, measured on several sides. The other figures are compared with the first.

    `key` identifies it for the goals. `more_is_better`: a rate, not a time or a size. `placement`: on which cores.
    """

    key: str
    title: str
    unit: str
    figures: tuple[Figure, ...]
    note: str = ""
    more_is_better: bool = False
    placement: str = ""

    def figure(self, side: str) -> Figure | None:
        """The figure of a side, or None if that side was not there."""
        return next((figure for figure in self.figures if figure.side == side), None)


@dataclass(slots=True)
class Report:
    """What a run found: its tables, and what could not be compared, with the reason."""

    tables: list[Table] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def in_turns(sides: Mapping[str, Round], effort: Effort, part: float = 1.0) -> tuple[Figure, ...]:
    """Measures every side in turn, once for each round, after a round that is discarded.

    `part`: the part of the effort's seconds that a round takes.
    """
    measured: dict[str, list[Measured]] = {side: [] for side in sides}
    seconds = effort.seconds * part
    for measure in sides.values():
        measure(seconds * WARM_PART)
    for number in range(effort.rounds):
        # The order turns, so that no side always runs after the same other one.
        order = [*sides][number % len(sides) :] + [*sides][: number % len(sides)]
        for side in order:
            measured[side].append(sides[side](seconds))
    return tuple(figure(side, rounds) for side, rounds in measured.items())


def figure(side: str, rounds: Sequence[Measured]) -> Figure:
    """The figure of rounds."""
    values = tuple(one.value for one in rounds)
    return Figure(side, values, sum(one.errors for one in rounds), max(one.busy for one in rounds))


async def in_async_turns(sides: Mapping[str, AsyncRound], rounds: int) -> tuple[Figure, ...]:
    """The same for coroutines, which warm up on their own."""
    measured: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, measure in sides.items():
            measured[side].append(await measure())
    return tuple(Figure(side, tuple(values)) for side, values in measured.items())


def microseconds_each(call: Callable[[Any], object], arguments: Sequence[Any], seconds: float) -> float:
    """The time per call, from as many passes over `arguments` as fit into `seconds`."""
    calls, began = 0, time.perf_counter()
    while True:
        for argument in arguments:
            call(argument)
        calls += len(arguments)
        took = time.perf_counter() - began
        if took >= seconds:
            return took / calls * 1e6


async def calls_per_second(call: Callable[[int], Awaitable[object]], in_flight: int, seconds: float) -> float:
    """The rate of several workers. Each calls again as soon as it has an answer; `call` gets the worker's number."""
    calls = 0
    ends = time.perf_counter() + seconds

    async def work(number: int) -> None:
        nonlocal calls
        while time.perf_counter() < ends:
            await call(number)
            calls += 1

    began = time.perf_counter()
    await asyncio.gather(*map(work, range(in_flight)))
    return calls / (time.perf_counter() - began)


def run(program: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the event loop that the service itself uses."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(program)
    return uvloop.run(program)
