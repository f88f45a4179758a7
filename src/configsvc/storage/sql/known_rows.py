"""The rows that this process knows to be current if the log still ends where it ended after the last group of writes.

Every write moves the end of the log. So a transaction that finds the log's end unchanged, under the counter's lock, need
not read these rows again. This module does no I/O.
"""

from collections.abc import Iterable, Sequence

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import NotReadError, Read, Ref, Write
from configsvc.domain.sizes import held_bytes
from configsvc.storage.sql.group_state import DECIDE_ATTEMPTS, GroupState, PlannedWrite, reading_more, reads_of
from configsvc.storage.sql.rows import Row

# For the bodies of the known rows and what a row takes beside its body.
KNOWN_BYTES = 8 << 20
_ROW_BYTES = 1_000


class KnownRows:
    """Rows at the end of the log, the most recently used ones, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int = KNOWN_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rows: dict[Read, Row | None] = {}
        self._bytes = 0
        self._end: Checkpoint | None = None
        # Whether other processes seem to write at present.
        self._others_write = False

    def state(self, writes: Iterable[Write], seen: Checkpoint) -> GroupState | None:
        """The state for planning these writes, if everything that they name is known; else None.

        It is also None if the log was seen further than it was written here, or if other processes write at present: the
        end of the log would not be where this process left it.
        """
        if self._others_write or seen != self._end or not seen.digest:
            return None
        state = GroupState(LogState(seen.revision, 0, seen.history, 0, seen.digest))
        return state if self.add_to(state, reads_of(writes)) else None

    def add_to(self, state: GroupState, reads: Sequence[Read]) -> bool:
        """Adds what `reads` names to the state. Returns False, and adds nothing, if not all of it is known."""
        if not all(read in self._rows for read in reads):
            return False
        self.add_known(state, reads)
        return True

    def add_known(self, state: GroupState, reads: Sequence[Read]) -> list[Read]:
        """Adds what is known of `reads` to a state at the end of the log. Returns the reads that are not known."""
        refs = [read for read in reads if isinstance(read, Ref) and read in self._rows]
        state.add_rows(refs, [row for ref in refs if (row := self._rows[ref])])
        return [read for read in reads if read not in self._rows]

    def forget_unless_at(self, end: Checkpoint) -> None:
        """Forgets all rows if the log ends elsewhere than after the last group."""
        if self._end != end:
            self._clear()

    def committed(self, start: Checkpoint, state: GroupState) -> None:
        """A group was committed: the log ended at `start` before, and ends now where the state ends."""
        self._others_write = self._end not in (None, start)
        if self._end != start:
            self._clear()
        self._end = state.end
        for ref, row in state.rows.items():
            self._forget(ref)
            self._rows[ref] = row
            self._bytes += _bytes_of(row)
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._rows)))

    def must_be_read(self) -> None:
        """The next group reads its rows under the lock: the log may not end where this process left it."""
        self._others_write = True

    def _forget(self, ref: Read) -> None:
        if ref in self._rows:
            self._bytes -= _bytes_of(self._rows.pop(ref))

    def _clear(self) -> None:
        self._rows.clear()
        self._bytes = 0


def plan_known(known: KnownRows, state: GroupState, write: Write) -> PlannedWrite | BaseException | None:
    """Plans a write from known rows alone, and applies it to the state; or returns the write's own error.

    Returns None if the database must be read: for a record that is not known; or because the write failed, and may be a
    retry of one that succeeded.
    """
    for _ in range(DECIDE_ATTEMPTS):
        try:
            planned = state.plan(write)
        except NotReadError as needed:
            if not known.add_to(state, needed.reads):
                return None
            write = reading_more(write, needed)
        except BaseException as error:
            return None if write.author.request_id else error
        else:
            state.apply(planned)
            return planned
    return None


def _bytes_of(row: Row | None) -> int:
    return _ROW_BYTES + (held_bytes(row.text) if row else 0)
