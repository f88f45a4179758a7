"""The entries of the near cache, the least recently used first, within bounds of number and bytes."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from configsvc.domain.records import Record, Ref


@dataclass(slots=True)
class Entry:
    """`record` (None: not live) was the state at every revision from `since` to `until`, both inclusive."""

    record: Record | None
    since: int
    until: int
    history: str

    @property
    def held_bytes(self) -> int:
        """About what the value takes in memory."""
        return 0 if self.record is None else self.record.held_bytes


class NearEntries:
    """At most `max_entries` entries, with about `max_bytes` of values."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Ref, Entry] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ref: Ref) -> bool:
        return ref in self._entries

    def items(self) -> Iterable[tuple[Ref, Entry]]:
        """All entries with their refs."""
        return self._entries.items()

    def get(self, ref: Ref) -> Entry | None:
        """The entry, which stays where it is in the order of use."""
        return self._entries.get(ref)

    def use(self, ref: Ref) -> Entry | None:
        """The entry, which is now the most recently used."""
        entry = self._entries.get(ref)
        if entry is not None:
            self._entries.move_to_end(ref)
        return entry

    def put(self, ref: Ref, entry: Entry) -> None:
        """Replaces an entry in place, or adds one as the most recently used; evicts what exceeds the bounds."""
        replaced = self._entries.get(ref)
        self.held_bytes += entry.held_bytes - (replaced.held_bytes if replaced is not None else 0)
        self._entries[ref] = entry
        while len(self._entries) > self._max_entries or self.held_bytes > self._max_bytes:
            self.held_bytes -= self._entries.popitem(last=False)[1].held_bytes

    def clear(self) -> None:
        """Removes all entries."""
        self._entries.clear()
        self.held_bytes = 0
