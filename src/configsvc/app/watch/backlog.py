"""The changes that a live watcher has not taken yet, bounded in number and in bytes."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from configsvc.app.watch.events import Changed
from configsvc.domain.records import Ref


class Backlog:
    """Every change while they fit, else the newest of each ref, in order of revision.

    A newer change of a ref takes a place at the end, and the earlier one is dropped: the backlog is conflating then.
    """

    __slots__ = ("_bytes", "_every", "_max_bytes", "_max_changes", "_newest", "conflated")

    def __init__(self, max_changes: int, max_bytes: int) -> None:
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._bytes = 0
        self._every: deque[Changed] = deque()
        # Used while the backlog is conflating; `_every` is empty then.
        self._newest: OrderedDict[Ref, Changed] = OrderedDict()
        # How many changes were dropped for a newer one of the same ref, so far.
        self.conflated = 0

    def __bool__(self) -> bool:
        return bool(self._every or self._newest)

    def __iter__(self) -> Iterator[Changed]:
        yield from self._every
        yield from self._newest.values()

    def add(self, event: Changed) -> bool:
        """Returns whether there was room. There is always room for one change, however large it is."""
        self._bytes += event.change.held_bytes
        if not self._newest:
            # The first change always fits. The hub puts it into thousands of backlogs.
            if not self._every or self._fits(len(self._every) + 1):
                self._every.append(event)
                return True
            for earlier in self._every:
                self._put(earlier)
            self._every.clear()
        self._put(event)
        return self._fits(len(self._newest))

    @property
    def oldest(self) -> Changed:
        """The change that `take` would remove."""
        return self._every[0] if self._every else next(iter(self._newest.values()))

    def take(self) -> Changed:
        """Removes and returns the oldest change."""
        event = self._newest.popitem(last=False)[1] if self._newest else self._every.popleft()
        self._bytes -= event.change.held_bytes
        return event

    def drop_through(self, revision: int) -> None:
        """Drops the changes up to a revision."""
        kept = [event for event in self if event.change.revision > revision]
        self.clear()
        for event in kept:
            self.add(event)

    def clear(self) -> None:
        """Drops every change."""
        self._every.clear()
        self._newest.clear()
        self._bytes = 0

    def _fits(self, changes: int) -> bool:
        return changes == 1 or (changes <= self._max_changes and self._bytes <= self._max_bytes)

    def _put(self, event: Changed) -> None:
        replaced = self._newest.pop(event.change.ref, None)
        if replaced is not None:
            self.conflated += 1
            self._bytes -= replaced.change.held_bytes
        self._newest[event.change.ref] = event
