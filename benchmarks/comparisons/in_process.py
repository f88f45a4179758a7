"""One evaluation inside a Python process, next to the libraries for it on PyPI."""

from collections.abc import Mapping

from benchmarks.comparisons.in_process_peers import ROLLOUT, RULES, TARGETED, IsOn, all_ready
from benchmarks.measure import Effort, Measured, Round, Table, in_turns, microseconds_each
from benchmarks.placement import Placement
from benchmarks.run import Run

USERS = tuple(f"user-{number}" for number in range(1_000))
# 25 % of 1,000 users, plus or minus more than four standard deviations.
FEWEST_ON, MOST_ON = 190, 310
# A round of one library. The median is stable from this length on; more rounds reduce noise better than longer ones.
ROUND_PART, ROUNDS_TIMES = 0.2, 3


def tables(run: Run, placement: Placement) -> list[Table]:
    """Two flags, each with all libraries."""
    run = run.on(placement, run.stack)
    with all_ready() as peers:
        for name, is_on in peers.items():
            _check(name, is_on)
        return [
            _table(run, f"in_process.{flag}", f"One evaluation in the process: {what}", flag, peers)
            for flag, what in (
                (ROLLOUT, "25 % rollout, two targeted users"),
                (RULES, "three rules, then 25 % rollout"),
            )
        ]


def _table(run: Run, key: str, title: str, flag: str, peers: Mapping[str, IsOn]) -> Table:
    def round_of(is_on: IsOn) -> Round:
        return lambda seconds: Measured(microseconds_each(lambda user: is_on(flag, user), USERS, seconds))

    effort = Effort(run.effort.rounds * ROUNDS_TIMES, run.effort.seconds)
    figures = in_turns({name: round_of(is_on) for name, is_on in peers.items()}, effort, ROUND_PART)
    return run.table(key, title, "µs", figures)


def _check(name: str, is_on: IsOn) -> None:
    """Checks that all do the same work: the flag is on for the targeted users and for about a quarter of the others."""
    for flag in (ROLLOUT, RULES):
        share = sum(is_on(flag, user) for user in USERS)
        if not all(is_on(flag, user) for user in TARGETED) or not FEWEST_ON <= share <= MOST_ON:
            raise AssertionError(f"{name} has flag '{flag}' on for {share} of {len(USERS)} users")
