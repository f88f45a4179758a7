"""Rounds and figures. Sides take turns, so that the machine's noise affects all of them equally."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# Measures one round of one side.
Round = Callable[[], float]
AsyncRound = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Effort:
    """The number of rounds, and the seconds of one round, of which a comparison may use a part."""

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Figure:
    """The results of one side, round by round."""

    side: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    def ratio(self, other: "Figure") -> float:
        """The median of this side's ratio to another side within each round."""
        return statistics.median(own / theirs for own, theirs in zip(self.values, other.values, strict=True))


@dataclass(frozen=True, slots=True)
class Table:
    """One quantity, measured on several sides. The other figures are compared with the first."""

    title: str
    unit: str
    figures: tuple[Figure, ...]
    note: str = ""


def in_turns(sides: Mapping[str, Round], rounds: int) -> tuple[Figure, ...]:
    """Measures every side in turn, `rounds` times, after one round that is discarded."""
    measured: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, measure in sides.items():
            value = measure()
            if number:
                measured[side].append(value)
    return tuple(Figure(side, tuple(values)) for side, values in measured.items())


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
