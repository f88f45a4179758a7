"""Checks a history against the guarantees. Each violation is one line; no line: all guarantees were kept.

The log orders the writes, so no search is needed (unlike Knossos or Porcupine). A history is linearizable if and only if
every acknowledged write is in the log once, no refused write is in it, and the order of the log does not contradict real
time. A read has a revision, and is checked against the log at that revision.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.chaos.history import History, LoggedChange


def violations(history: History) -> list[str]:
    """All violations."""
    return [
        *_log_is_gapless(history),
        *_writes_are_in_the_log(history),
        *_log_follows_real_time(history),
        *_reads_match_the_log(history),
        *_watchers_are_complete(history),
        *_events_are_complete(history),
        *_living_instances_are_listed(history),
    ]


def _log_is_gapless(history: History) -> Iterator[str]:
    expected = set(range(history.first_revision, history.last_revision + 1))
    if missing := sorted(expected - history.revisions):
        yield f"the log has no revisions {missing[:5]}, {len(missing)} in all"


def _writes_are_in_the_log(history: History) -> Iterator[str]:
    logged: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for change in history.log:
        logged[change.key, change.value].append(change.revision)
    for write in history.writes:
        revisions_of_write = logged[write.key, write.value]
        if write.revision is not None and revisions_of_write != [write.revision]:
            yield f"{write.key}={write.value} was acknowledged at {write.revision}, but the log has it at {revisions_of_write}"
        if write.is_refused and revisions_of_write:
            yield f"{write.key}={write.value} was refused, but the log has it at {revisions_of_write}"
        if len(revisions_of_write) > 1:
            yield f"{write.key}={write.value} was written once, but the log has it at {revisions_of_write}"
    written = {(write.key, write.value) for write in history.writes}
    for (key, value), revisions_of_write in logged.items():
        if revisions_of_write and value is not None and (key, value) not in written:
            yield f"{key}={value} is in the log at {revisions_of_write}, but no client wrote it"


def _log_follows_real_time(history: History) -> Iterator[str]:
    """If a write ended before another began, it has the lower revision."""
    acknowledged = [(write.began, write.ended, write) for write in history.writes if write.revision is not None]
    by_end = sorted(acknowledged, key=lambda item: item[1])
    ends = [ended for _, ended, _ in by_end]
    highest: list[int] = []
    for _, _, write in by_end:
        highest.append(max(highest[-1] if highest else 0, write.revision or 0))
    for began, _, write in acknowledged:
        before = bisect_right(ends, began) - 1
        if before >= 0 and highest[before] > (write.revision or 0):
            yield (
                f"{write.key}={write.value} got revision {write.revision}, but revision {highest[before]} was"
                " acknowledged before it began"
            )


def _reads_match_the_log(history: History) -> Iterator[str]:
    by_key: dict[str, list[LoggedChange]] = defaultdict(list)
    for change in history.log:
        by_key[change.key].append(change)
    revisions = {key: [change.revision for change in changes] for key, changes in by_key.items()}
    for read in history.reads:
        if read.revision < read.min_revision:
            yield f"{read.key} was requested at {read.min_revision}, but answered at {read.revision}"
        place = bisect_right(revisions.get(read.key, []), read.revision) - 1
        true = by_key[read.key][place] if place >= 0 else LoggedChange(0, read.key, None)
        if read.is_stale:
            # From a copy with its own revision: true at that revision, and perhaps outdated now.
            true = next(
                (c for c in by_key[read.key] if c.revision == read.config_revision), LoggedChange(-1, read.key, None)
            )
        if (true.revision, true.value) != (read.config_revision, read.value):
            yield (
                f"{read.key} was {read.value} (since {read.config_revision}) at {read.revision}"
                f"{', stale' if read.is_stale else ''}, but the log has {true.value} (since {true.revision})"
            )


def _watchers_are_complete(history: History) -> Iterator[str]:
    for watcher in history.watchers:
        true = [(c.revision, c.key, c.value) for c in history.log if c.revision > watcher.after]
        received = [(s.revision, s.key, s.value) for s in watcher.received]
        if received == true:
            continue
        if missing := sorted(set(true) - set(received)):
            yield f"watcher {watcher.name} did not get {missing[:3]}, {len(missing)} in all"
        if extra := [item for item, count in Counter(received).items() if count > 1 or item not in set(true)]:
            yield f"watcher {watcher.name} got twice or wrongly {extra[:3]}, {len(extra)} in all"
        if received != sorted(received):
            yield f"watcher {watcher.name} got changes out of order"


def _events_are_complete(history: History) -> Iterator[str]:
    published = {revision for revisions in history.published.values() for revision in revisions}
    if missing := sorted(history.revisions - published):
        yield f"the topic has no event of revisions {missing[:5]}, {len(missing)} in all"
    for key, revisions in history.published.items():
        first = list(dict.fromkeys(revisions))
        if first != sorted(first):
            yield f"the events of {key} are out of order"


def _living_instances_are_listed(history: History) -> Iterator[str]:
    for number, answer in enumerate(history.discovered):
        if missing := history.living - answer:
            yield f"discover answer {number} of {len(history.discovered)} lacks {sorted(missing)}, which were alive"
            return
