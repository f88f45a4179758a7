"""One evaluation inside a Python process, next to the libraries for it on PyPI."""

from collections.abc import Mapping, Sequence

from benchmarks.evaluation_peers import ROLLOUT, RULES, TARGETED, IsOn, all_ready
from benchmarks.measure import Effort, Table, in_turns, microseconds_each

USERS = tuple(f"user-{number}" for number in range(1_000))
# 25 % of 1,000 users, plus or minus more than four standard deviations.
FEWEST_ON, MOST_ON = 190, 310
# A round of one library. The median is stable from this length on; more rounds reduce noise better than longer ones.
ROUND_PART, ROUNDS_TIMES = 0.12, 3


def tables(effort: Effort) -> Sequence[Table]:
    """Two flags, each with all libraries."""
    with all_ready() as peers:
        for name, is_on in peers.items():
            _check(name, is_on)
        return [
            _table(f"One evaluation in the process: {what}", flag, peers, effort)
            for flag, what in (
                (ROLLOUT, "25 % rollout, two targeted users"),
                (RULES, "three rules, then 25 % rollout"),
            )
        ]


def _table(title: str, flag: str, peers: Mapping[str, IsOn], effort: Effort) -> Table:
    def side(is_on: IsOn) -> float:
        return microseconds_each(lambda user: is_on(flag, user), USERS, effort.seconds * ROUND_PART)

    rounds = {name: lambda is_on=is_on: side(is_on) for name, is_on in peers.items()}
    return Table(title, "µs an evaluation", in_turns(rounds, effort.rounds * ROUNDS_TIMES))


def _check(name: str, is_on: IsOn) -> None:
    """Checks that all do the same work: the flag is on for the targeted users and for about a quarter of the others."""
    for flag in (ROLLOUT, RULES):
        share = sum(is_on(flag, user) for user in USERS)
        if not all(is_on(flag, user) for user in TARGETED) or not FEWEST_ON <= share <= MOST_ON:
            raise AssertionError(f"{name} has flag '{flag}' on for {share} of {len(USERS)} users")
