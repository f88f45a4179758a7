"""The opening state of a watch: which revision of the store each part of it shows.

The pages of a snapshot are read one after the other, each at its own revision. So the watcher is registered first, and a
change that a page already shows is not sent again.

The revision of `Synced`:

- One page: the page's revision.
- Several pages, and only puts since the first one: they are added to the snapshot. It then is the state at the last
  page's revision, and `Synced` has that one.
- Several pages, and a removal among the changes: a snapshot can't show a removal. `Synced` has the first page's
  revision, and the changes follow it. Some records are newer than `Synced` then. A client that resumes right there sees
  changes that it has; a change is new to a client only if its revision is above that of the record that it holds.
"""

from bisect import bisect_left
from collections.abc import Iterable

from configsvc.app.watch.events import Changed
from configsvc.domain.records import Change, Record
from configsvc.storage.port import RecordPage


class SnapshotRevisions:
    """The revision of each page, by the keys that the page covers."""

    def __init__(self) -> None:
        # Page i has the (key, service) up to and including bounds[i]; the last page has no bound.
        self._bounds: list[tuple[str, str]] = []
        self._revisions: list[int] = []

    def add(self, page: RecordPage) -> tuple[str, str] | None:
        """Adds the next page; returns the (key, service) after which the following page begins, None for the last."""
        self._revisions.append(page.revision)
        if not page.more:
            return None
        last = page.records[-1].ref
        self._bounds.append((last.key, last.service))
        return self._bounds[-1]

    @property
    def first(self) -> int:
        """The revision of the first page."""
        return self._revisions[0]

    @property
    def last(self) -> int:
        """The highest revision of a page."""
        return max(self._revisions)

    def shows(self, change: Change) -> bool:
        """Whether the snapshot shows this change, or a later state of its record."""
        page = bisect_left(self._bounds, (change.ref.key, change.ref.service))
        return change.revision <= self._revisions[page]

    def missing_records(self, events: Iterable[Changed]) -> tuple[Record, ...] | None:
        """The records that make the snapshot the state at its last revision, given the changes since it was begun.

        None if there is a removal among them.
        """
        newest = {
            event.change.ref: event.change.record
            for event in events
            if event.change.revision <= self.last and not self.shows(event.change)
        }
        records = tuple(record for record in newest.values() if record is not None)
        return records if len(records) == len(newest) else None
