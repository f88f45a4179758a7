"""What a comparison has at hand, and the tables that all of them make in the same way."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

from benchmarks.load import Load, Target
from benchmarks.measure import Effort, Figure, Measured, Report, Round, Table, figure, in_turns
from benchmarks.peers import MissingError, Program, Programs
from benchmarks.placement import FREE, Placement
from benchmarks.processes import Server
from tests.engines import ServiceError, ServiceSet

MANY = 64
# The latency of one caller is stable: less time is enough.
ALONE_PART = 0.5
# A Java server is at full speed after so many answers; a very slow machine does not wait for it longer than this.
COMPILING_ANSWERS, COMPILING_SECONDS = 20_000, 30


@dataclass(frozen=True, slots=True)
class Run:
    """One run: how much, with which programs and services, on which cores, and what is found."""

    effort: Effort
    programs: Programs
    services: ServiceSet
    report: Report
    placement: Placement = FREE
    stack: ExitStack = field(default_factory=ExitStack)

    def on(self, placement: Placement, stack: ExitStack) -> "Run":
        """The same run on other cores. What it starts ends with `stack`."""
        self.services_on(placement)
        return replace(self, placement=placement, stack=stack)

    def services_on(self, placement: Placement) -> None:
        """Moves the engines to the cores of the servers."""
        placement.place(*(one for one in (self.services.postgres, self.services.zookeeper) if one.running))

    def server(self, made: AbstractContextManager[Server]) -> Server:
        """Starts a server of this service."""
        return self.stack.enter_context(made)

    def peer(self, name: str, make: Callable[[], AbstractContextManager[Server]]) -> Server | None:
        """Starts a server of another side; None if it can't be had, which the report says."""
        try:
            started = self.stack.enter_context(make())
        except (MissingError, ServiceError) as error:
            self.report.missing[name] = str(error)
            return None
        return started

    def has(self, name: str, find: Callable[[], Program]) -> bool:
        """Whether a program can be had; if not, the report says why."""
        try:
            find()
        except MissingError as error:
            self.report.missing[name] = str(error)
            return False
        return True

    def load(self, target: Target, in_flight: int) -> Load:
        """A load client, which ends with this run's servers."""
        return self.stack.enter_context(Load(self.programs.load(), self.placement, target, in_flight))

    def warm_up(self, target: Target) -> None:
        """Runs a load whose figures do not count, for a peer that compiles itself while it runs."""
        answers, ends = 0, time.monotonic() + COMPILING_SECONDS
        with Load(self.programs.load(), self.placement, target, MANY) as load:
            while answers < COMPILING_ANSWERS and time.monotonic() < ends:
                load.per_second(1.0)
                answers += load.answers

    def send_all(self, target: Target) -> None:
        """Sends each request of a target at least once."""
        sent = 0
        with Load(self.programs.load(), self.placement, target, 1) as load:
            while sent < len(target.requests):
                load.per_second(1.0)
                sent += load.answers

    def table(self, key: str, title: str, unit: str, figures: Sequence[Figure], note: str = "") -> Table:
        """A table with this run's placement. A unit "… a second" says that more is better."""
        more = unit.endswith("/s")
        return Table(key, title, unit, tuple(figures), note, more_is_better=more, placement=self.placement.name)

    def many(self, key: str, title: str, targets: Mapping[str, Target], in_flight: int = MANY) -> Table:
        """Right answers a second, with many requests in flight."""
        loads = {side: self.load(target, in_flight) for side, target in targets.items()}
        rounds: dict[str, Round] = {side: load.per_second for side, load in loads.items()}
        figures = in_turns(rounds, self.effort)
        return self.table(f"{key}.many", f"{title}, {in_flight} in flight", "answers/s", figures)

    def alone(self, key: str, title: str, targets: Mapping[str, Target]) -> Table:
        """The median time of one call, with one in flight."""
        loads = {side: self.load(target, 1) for side, target in targets.items()}
        rounds: dict[str, Round] = {side: load.microseconds for side, load in loads.items()}
        figures = in_turns(rounds, self.effort, ALONE_PART)
        return self.table(f"{key}.one", f"{title}, one in flight", "µs", figures)

    def steady(self, key: str, title: str, targets: Mapping[str, Target], rate: int) -> Sequence[Table]:
        """The 50th and the 99th percentile at a fixed rate."""
        loads = {side: self.load(target, MANY) for side, target in targets.items()}
        measured: dict[str, list[tuple[Measured, Measured]]] = {side: [] for side in loads}
        for number in range(self.effort.rounds + 1):
            for side, load in loads.items():
                both = load.at_rate(rate, self.effort.seconds * (1 if number else ALONE_PART))
                if number:
                    measured[side].append(both)
        return [
            self.table(
                f"{key}.{name}",
                f"{title} at {rate:,}/s, {name}",
                "µs",
                [figure(side, [both[index] for both in rounds]) for side, rounds in measured.items()],
            )
            for index, name in enumerate(("p50", "p99"))
        ]

    def unary(self, key: str, title: str, targets: Mapping[str, Target], rate: int) -> list[Table]:
        """All of the above for one operation."""
        return [
            self.many(key, title, targets),
            self.alone(key, title, targets),
            *self.steady(key, title, targets, rate),
        ]
