"""Whether a history keeps the promises. Each violation is one line; none: all promises were kept.

The log gives each write its place, so nothing has to be searched (as it has to in Knossos or Porcupine): a history is
linearizable exactly where every acknowledged write is in the log once, no write is in it that was refused, and the order
of the log does not contradict the order of real time. A read names the revision at which it is true, and is checked
against the log at that revision.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.chaos.history import History, Logged


def violations(history: History) -> list[str]:
    """All of them."""
    return [
        *_log_is_gapless(history),
        *_writes_are_in_the_log(history),
        *_log_follows_real_time(history),
        *_reads_are_true(history),
        *_watchers_missed_nothing(history),
        *_events_are_complete(history),
        *_the_living_are_listed(history),
    ]


def _log_is_gapless(history: History) -> Iterator[str]:
    wanted = set(range(history.first_revision, history.last_revision + 1))
    if missing := sorted(wanted - history.revisions):
        yield f"the log has no revisions {missing[:5]}, {len(missing)} in all"


def _writes_are_in_the_log(history: History) -> Iterator[str]:
    logged: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for change in history.log:
        logged[change.key, change.value].append(change.revision)
    for write in history.writes:
        found = logged[write.key, write.value]
        if write.revision is not None and found != [write.revision]:
            yield f"{write.key}={write.value} was acknowledged at {write.revision}, and the log has it at {found}"
        if write.is_refused and found:
            yield f"{write.key}={write.value} was refused, and the log has it at {found}"
        if len(found) > 1:
            yield f"{write.key}={write.value} was written once, and the log has it at {found}"
    written = {(write.key, write.value) for write in history.writes}
    for (key, value), found in logged.items():
        if found and value is not None and (key, value) not in written:
            yield f"{key}={value} is in the log at {found}, and nobody wrote it"


def _log_follows_real_time(history: History) -> Iterator[str]:
    """A write that had ended before another began has the lower revision."""
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
                f"{write.key}={write.value} got revision {write.revision}, though revision {highest[before]} was"
                " acknowledged before it began"
            )


def _reads_are_true(history: History) -> Iterator[str]:
    by_key: dict[str, list[Logged]] = defaultdict(list)
    for change in history.log:
        by_key[change.key].append(change)
    revisions = {key: [change.revision for change in changes] for key, changes in by_key.items()}
    for read in history.reads:
        if read.revision < read.min_revision:
            yield f"{read.key} was asked for at {read.min_revision}, and answered at {read.revision}"
        place = bisect_right(revisions.get(read.key, []), read.revision) - 1
        true = by_key[read.key][place] if place >= 0 else Logged(0, read.key, None)
        if read.is_stale:
            # From a copy, whose own revision it names: true then, and perhaps no more now.
            true = next((c for c in by_key[read.key] if c.revision == read.config_revision), Logged(-1, read.key, None))
        if (true.revision, true.value) != (read.config_revision, read.value):
            yield (
                f"{read.key} was {read.value} (since {read.config_revision}) at {read.revision}"
                f"{', stale' if read.is_stale else ''}, and by the log {true.value} (since {true.revision})"
            )


def _watchers_missed_nothing(history: History) -> Iterator[str]:
    for watcher in history.watchers:
        true = [(c.revision, c.key, c.value) for c in history.log if c.revision > watcher.after]
        seen = [(s.revision, s.key, s.value) for s in watcher.seen]
        if seen == true:
            continue
        if missing := sorted(set(true) - set(seen)):
            yield f"watcher {watcher.name} was not told of {missing[:3]}, {len(missing)} in all"
        if extra := [item for item, count in Counter(seen).items() if count > 1 or item not in set(true)]:
            yield f"watcher {watcher.name} was told twice or wrongly of {extra[:3]}, {len(extra)} in all"
        if seen != sorted(seen):
            yield f"watcher {watcher.name} was told out of order"


def _events_are_complete(history: History) -> Iterator[str]:
    published = {revision for revisions in history.published.values() for revision in revisions}
    if missing := sorted(history.revisions - published):
        yield f"the topic has no event of revisions {missing[:5]}, {len(missing)} in all"
    for key, revisions in history.published.items():
        first = list(dict.fromkeys(revisions))
        if first != sorted(first):
            yield f"the events of {key} are out of order"


def _the_living_are_listed(history: History) -> Iterator[str]:
    for number, answer in enumerate(history.discovered):
        if missing := history.living - answer:
            yield f"discover answer {number} of {len(history.discovered)} lacks {sorted(missing)}, which were alive"
            return
