"""The entries of the near cache, the least recently used first, within bounds of number and bytes."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from configsvc.domain.records import Record, Ref

# What an entry takes beside its key and the body of its record: the names, the times, the objects, its place in the order.
ENTRY_BYTES = 650
# What an encoding takes beside its contents.
ENCODING_BYTES = 100


@dataclass(eq=False, slots=True)
class Encoding:
    """A record in the form in which callers get it; kept with the record's entry.

    Readers may hold it longer than the entry exists. When the entry is replaced or evicted, `is_current` becomes False,
    and the contents are freed. A reader sets `is_used` in place of `NearEntries.use`, which costs more.
    `until`: the entry's, when this was made.
    """

    contents: bytes
    until: int
    is_current: bool = True
    is_used: bool = False

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        return ENCODING_BYTES + len(self.contents)

    def end(self) -> None:
        """The entry is no longer current."""
        self.is_current = False
        self.contents = b""


@dataclass(slots=True)
class Entry:
    """`record` (None: not live) was the state at every revision from `since` to `until`, both inclusive."""

    record: Record | None
    since: int
    until: int
    history: str
    encoding: Encoding | None = field(default=None, compare=False)

    def held_bytes(self, ref: Ref) -> int:
        """About what the entry takes in memory, its ref included."""
        own = (
            ENTRY_BYTES + len(ref.key)
            if self.encoding is None
            else ENTRY_BYTES + len(ref.key) + self.encoding.held_bytes
        )
        return own if self.record is None else own + self.record.held_bytes


class NearEntries:
    """At most `max_entries` entries, which take about `max_bytes` of memory."""

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
        if replaced is not None:
            self._end(ref, replaced)
        self.held_bytes += entry.held_bytes(ref)
        self._entries[ref] = entry
        self._evict()

    def put_encoding(self, entry: Entry, encoding: Encoding) -> None:
        """Keeps the encoding of an entry that is here; evicts what exceeds the bounds."""
        self.held_bytes += encoding.held_bytes
        entry.encoding = encoding
        self._evict()

    def clear(self) -> None:
        """Removes all entries."""
        for ref, entry in self._entries.items():
            self._end(ref, entry)
        self._entries.clear()

    def _evict(self) -> None:
        while len(self._entries) > self._max_entries or self.held_bytes > self._max_bytes:
            ref, entry = self._entries.popitem(last=False)
            if entry.encoding is not None and entry.encoding.is_used:
                # It was used since it came here: it is now the most recently used.
                entry.encoding.is_used = False
                self._entries[ref] = entry
            else:
                self._end(ref, entry)

    def _end(self, ref: Ref, entry: Entry) -> None:
        self.held_bytes -= entry.held_bytes(ref)
        if entry.encoding is not None:
            entry.encoding.end()
