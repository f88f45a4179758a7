"""The checker finds what it is there for: each kind of lie, planted in a history that is true."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.checker import violations
from tests.chaos.history import History, Logged, Read, Seen, Watched, Wrote


def true_history() -> History:
    log = [Logged(1, "a", 10), Logged(2, "b", 20), Logged(3, "a", 11)]
    return History(
        writes=[
            Wrote("a", 10, 0.0, 1.0, 1),
            Wrote("b", 20, 0.5, 2.0, 2),
            Wrote("a", 11, 1.5, 3.0, 3),
            Wrote("b", 21, 3.0, 4.0, None),
            Wrote("b", 22, 3.0, 4.0, None, is_refused=True),
        ],
        reads=[Read("a", 0, 2, 1, 10, False), Read("a", 3, 3, 3, 11, False), Read("b", 0, 1, 0, None, False)],
        watchers=[Watched("w", 1, [Seen(2, "b", 20), Seen(3, "a", 11)])],
        discovered=[frozenset({"i"})],
        living=frozenset({"i"}),
        log=log,
        last_revision=3,
        revisions={1, 2, 3},
        published={"a": [1, 1, 3, 1], "b": [2]},
    )


def test_a_true_history_has_no_violations() -> None:
    assert violations(true_history()) == []


def test_a_write_of_which_nobody_knows_may_be_in_the_log() -> None:
    history = true_history()
    history.log.append(Logged(4, "b", 21))
    history.last_revision, history.revisions = 4, {1, 2, 3, 4}
    history.published["b"].append(4)
    history.watchers[0].seen.append(Seen(4, "b", 21))
    assert violations(history) == []


def lost_write(history: History) -> None:
    history.log[1] = Logged(2, "c", None)


def doubled_write(history: History) -> None:
    history.log.append(Logged(4, "a", 10))


def refused_write_done(history: History) -> None:
    history.log.append(Logged(4, "b", 22))


def gap(history: History) -> None:
    history.revisions.discard(2)


def against_time(history: History) -> None:
    history.writes[0], history.writes[2] = (
        replace(history.writes[0], began=5.0, ended=6.0),
        replace(history.writes[2], began=0.0, ended=1.0),
    )


def old_read(history: History) -> None:
    history.reads.append(Read("a", 0, 3, 1, 10, False))


def read_below_what_was_asked(history: History) -> None:
    history.reads.append(Read("a", 3, 2, 1, 10, False))


def stale_read_of_what_never_was(history: History) -> None:
    history.reads.append(Read("a", 0, 1, 1, 99, True))


def watcher_missed(history: History) -> None:
    del history.watchers[0].seen[0]


def watcher_told_twice(history: History) -> None:
    history.watchers[0].seen.append(history.watchers[0].seen[-1])


def watcher_told_out_of_order(history: History) -> None:
    history.watchers[0].seen.reverse()


def event_missing(history: History) -> None:
    history.published["b"].clear()


def events_out_of_order(history: History) -> None:
    history.published["a"] = [3, 1]


def list_emptied(history: History) -> None:
    history.discovered.append(frozenset())


@pytest.mark.parametrize(
    "lie",
    [
        lost_write, doubled_write, refused_write_done, gap, against_time, old_read, read_below_what_was_asked,
        stale_read_of_what_never_was, watcher_missed, watcher_told_twice, watcher_told_out_of_order, event_missing,
        events_out_of_order, list_emptied,
    ],
)  # fmt: skip
def test_a_lie_is_found(lie: Callable[[History], None]) -> None:
    history = true_history()
    lie(history)
    assert violations(history)
