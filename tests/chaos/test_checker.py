"""The checker detects each kind of violation, planted in a correct history."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.checker import violations
from tests.chaos.history import History, LoggedChange, Read, ReceivedChange, WatcherRecord, WriteAttempt


def correct_history() -> History:
    log = [LoggedChange(1, "a", 10), LoggedChange(2, "b", 20), LoggedChange(3, "a", 11)]
    return History(
        writes=[
            WriteAttempt("a", 10, 0.0, 1.0, 1),
            WriteAttempt("b", 20, 0.5, 2.0, 2),
            WriteAttempt("a", 11, 1.5, 3.0, 3),
            WriteAttempt("b", 21, 3.0, 4.0, None),
            WriteAttempt("b", 22, 3.0, 4.0, None, is_refused=True),
        ],
        reads=[Read("a", 0, 2, 1, 10, False), Read("a", 3, 3, 3, 11, False), Read("b", 0, 1, 0, None, False)],
        watchers=[WatcherRecord("w", 1, [ReceivedChange(2, "b", 20), ReceivedChange(3, "a", 11)])],
        discovered=[frozenset({"i"})],
        living=frozenset({"i"}),
        log=log,
        last_revision=3,
        revisions={1, 2, 3},
        published={"a": [1, 1, 3, 1], "b": [2]},
    )


def test_correct_history_has_no_violations() -> None:
    assert violations(correct_history()) == []


def test_unacknowledged_write_may_be_in_the_log() -> None:
    history = correct_history()
    history.log.append(LoggedChange(4, "b", 21))
    history.last_revision, history.revisions = 4, {1, 2, 3, 4}
    history.published["b"].append(4)
    history.watchers[0].received.append(ReceivedChange(4, "b", 21))
    assert violations(history) == []


def lost_write(history: History) -> None:
    history.log[1] = LoggedChange(2, "c", None)


def duplicate_write(history: History) -> None:
    history.log.append(LoggedChange(4, "a", 10))


def refused_write_in_the_log(history: History) -> None:
    history.log.append(LoggedChange(4, "b", 22))


def missing_revision(history: History) -> None:
    history.revisions.discard(2)


def order_against_real_time(history: History) -> None:
    history.writes[0], history.writes[2] = (
        replace(history.writes[0], began=5.0, ended=6.0),
        replace(history.writes[2], began=0.0, ended=1.0),
    )


def outdated_read(history: History) -> None:
    history.reads.append(Read("a", 0, 3, 1, 10, False))


def read_below_min_revision(history: History) -> None:
    history.reads.append(Read("a", 3, 2, 1, 10, False))


def stale_read_of_an_unwritten_value(history: History) -> None:
    history.reads.append(Read("a", 0, 1, 1, 99, True))


def watcher_missed_a_change(history: History) -> None:
    del history.watchers[0].received[0]


def watcher_got_a_change_twice(history: History) -> None:
    history.watchers[0].received.append(history.watchers[0].received[-1])


def watcher_got_changes_out_of_order(history: History) -> None:
    history.watchers[0].received.reverse()


def missing_event(history: History) -> None:
    history.published["b"].clear()


def events_out_of_order(history: History) -> None:
    history.published["a"] = [3, 1]


def empty_discovery(history: History) -> None:
    history.discovered.append(frozenset())


@pytest.mark.parametrize(
    "falsify",
    [
        lost_write, duplicate_write, refused_write_in_the_log, missing_revision, order_against_real_time, outdated_read, read_below_min_revision,
        stale_read_of_an_unwritten_value, watcher_missed_a_change, watcher_got_a_change_twice, watcher_got_changes_out_of_order, missing_event,
        events_out_of_order, empty_discovery,
    ],
)  # fmt: skip
def test_checker_detects_a_false_history(falsify: Callable[[History], None]) -> None:
    history = correct_history()
    falsify(history)
    assert violations(history)
