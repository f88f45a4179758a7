"""Records in memory for reads by name: filled from the store on a miss, then kept up to date by the log.

How an old value is kept from coming back (docs/architecture.md, law 5). A fill is read at some revision F while the log's tail goes
on in this process, so by the time the fill arrives, the tail may have passed F and with it a change to the very record.
Therefore a flight is known to the tail from before its read begins: changes to its records are noted on it, and on
arrival the newer of the two wins. The other way round, a fill may be ahead of the tail; then the tail's changes up to F
are in it already, and are not applied again.

Each entry thereby says "the record was this, from `since` at the latest, up to `until` at least", and `until` grows
with the tail. Entries stood together at one revision exactly where the latest `since` is not after the earliest
`until`.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from configsvc.app.changelog.tail import LogTail
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE, FallbackCache, FallbackEntry, config_key
from configsvc.domain.record_json import record_json, record_of
from configsvc.domain.records import Change, Kind, Record, Ref, View
from configsvc.errors import Unavailable
from configsvc.storage.port import Reader, RecordQuery

# About what the values in memory take, where nobody says otherwise.
NEAR_CACHE_BYTES = 128 << 20
# So many records are read whole, however large they are.
READ_WHOLE = 16


@dataclass(slots=True)
class _Entry:
    """`record` (None: not live) was the state at every revision from `since` to `until`."""

    record: Record | None
    since: int
    until: int
    history: str

    @property
    def held_bytes(self) -> int:
        return 0 if self.record is None else self.record.held_bytes


@dataclass(eq=False, slots=True)
class _Flight:
    """One read of the store. `floor`: the tail has told everything after it since the flight is known."""

    refs: tuple[Ref, ...]
    floor: int
    noted: dict[Ref, Change] = field(default_factory=dict)


class NearCache:
    """A `LogFollower`: current records by ref, at most `max_entries` and about `max_bytes` of values in memory; that something is not live
    is an entry too."""

    def __init__(
        self,
        *,
        reader: Reader,
        tail: LogTail,
        max_entries: int,
        max_bytes: int = NEAR_CACHE_BYTES,
        fallback_cache: FallbackCache = NO_FALLBACK_CACHE,
    ) -> None:
        self._reader = reader
        self._tail = tail
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._fallback_cache = fallback_cache
        fallback_cache.add_source(
            lambda: [_fallback_entry(ref, entry.record, entry.since) for ref, entry in self._entries.items()]
        )
        self._entries: OrderedDict[Ref, _Entry] = OrderedDict()
        self._flights: dict[Ref, tuple[_Flight, asyncio.Task[dict[Ref, _Entry]]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held_bytes(self) -> int:
        """About what the values take in memory."""
        return self._bytes

    def close(self) -> None:
        """Nothing is answered from memory any more."""
        self._entries.clear()
        self._bytes = 0
        self._max_entries = 0

    async def get(self, refs: Sequence[Ref]) -> View:
        """The live ones among `refs`, as they stood together at the view's revision.

        That revision is at or above what the tail had applied at the call. With the store away, what is in memory is
        still answered, or else the copies that other replicas left; where that is not all, `Unavailable` is raised.
        """
        if self._tail.stale_since is not None and (view := await self._copied(refs)) is not None:
            # Known to be away: nobody waits for it to be silent once more.
            return view
        try:
            return await self._current(refs)
        except Unavailable as error:
            self._tail.mark_stale(error)
            if (view := await self._copied(refs)) is None:
                raise
            return view

    async def first(self, refs: Sequence[Ref], max_bytes: int) -> tuple[View, frozenset[Ref]]:
        """The same for many configurations of one service; and those that were not looked at, since the bodies of those
        before them, in the order of keys, have `max_bytes`: they are not loaded to be thrown away.

        Such a read is not kept in memory: it would push out what is asked for by name.
        """
        if len(refs) <= READ_WHOLE or self._tail.stale_since is not None or all(ref in self._entries for ref in refs):
            return await self.get(refs), frozenset()
        keys = tuple(ref.key for ref in refs)
        query = RecordQuery(refs[0].kind, refs[0].environment, len(refs), (refs[0].service,), keys, max_bytes=max_bytes)
        try:
            page = await self._reader.page(query)
        except Unavailable as error:
            self._tail.mark_stale(error)
            return await self.get(refs), frozenset()
        view = View(page.revision, {record.ref: record for record in page.records})
        return view, frozenset(ref for ref in refs if page.more and ref.key > page.records[-1].ref.key)

    async def _current(self, refs: Sequence[Ref]) -> View:
        found: dict[Ref, _Entry] = {}
        missing = [ref for ref in refs if ref not in self._entries]
        if missing:
            found = await self._fill(missing)
        for ref in refs:
            entry = self._entries.get(ref)
            if entry is not None:
                self._entries.move_to_end(ref)
                entry.until = max(entry.until, self._tail.applied)
                found[ref] = entry
            elif ref not in found:
                # It was in memory when we looked, and has gone while others were read.
                return await self._reader.get(refs)
        if not found:
            return View(self._tail.applied, {}, history=self._tail.history)
        if missing and len({entry.history for entry in found.values()}) > 1:
            # The log got another history meanwhile: states of two of them don't belong together.
            return await self._reader.get(refs)
        until = min(entry.until for entry in found.values())
        if max(entry.since for entry in found.values()) > until:
            # They were not read together, and the tail is not far enough to say that they stood together.
            with contextlib.suppress(Unavailable):
                return await self._reader.get(refs)
        live = {ref: entry.record for ref, entry in found.items() if entry.record is not None}
        return View(until, live, history=self._tail.history)

    async def _copied(self, refs: Sequence[Ref]) -> View | None:
        """From memory and the shared copies; None where that is not all."""
        records: dict[Ref, Record | None] = {}
        revisions = []
        for ref in refs:
            if (entry := self._entries.get(ref)) is not None:
                records[ref] = entry.record
                revisions.append(max(entry.until, self._tail.applied))
        missing = {config_key(ref): ref for ref in refs if ref not in records}
        if missing:
            for key, (revision, content) in (await self._fallback_cache.get(list(missing))).items():
                records[missing[key]] = None if content is None else record_of(content)
                revisions.append(revision)
        if len(records) < len(set(refs)):
            return None
        return View(min(revisions, default=0), {ref: record for ref, record in records.items() if record is not None})

    async def _fill(self, refs: Iterable[Ref]) -> dict[Ref, _Entry]:
        """Reads what is not being read already; one flight a ref, whoever asks for it."""
        new = tuple(dict.fromkeys(ref for ref in refs if ref not in self._flights))
        if new:
            flight = _Flight(new, self._tail.applied)
            task = asyncio.create_task(self._fly(flight), name="near-fill")
            # Its error is every waiter's; where all of them have gone, it is nobody's.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._flights.update(dict.fromkeys(new, (flight, task)))
        tasks = {ref: self._flights[ref][1] for ref in refs}
        for task in dict.fromkeys(tasks.values()):
            # A caller that gives up does not take the flight from the others.
            await asyncio.shield(task)
        return {ref: task.result()[ref] for ref, task in tasks.items()}

    async def _fly(self, flight: _Flight) -> dict[Ref, _Entry]:
        try:
            view = await self._reader.get(flight.refs)
            landed = {ref: self._land(flight, ref, view) for ref in flight.refs}
        finally:
            for ref in flight.refs:
                del self._flights[ref]
        return landed

    def _land(self, flight: _Flight, ref: Ref, view: View) -> _Entry:
        record = view.get(ref)
        entry = _Entry(record, record.revision if record else view.revision, view.revision, view.history)
        if view.history != self._tail.history:
            # The log has another history, and the tail does not know yet, or this answer is from before. Not to be kept.
            self._tail.request_read()
            return entry
        if view.revision < flight.floor:
            # An answer from before the flight: what the tail said in between is not known. Not to be kept.
            return entry
        change = flight.noted.get(ref)
        if change is not None and change.revision > view.revision:
            entry = _Entry(change.record, change.revision, change.revision, change.history)
        entry.until = max(entry.until, self._tail.applied)
        self._keep(ref, entry)
        self._fallback_cache.put(_fallback_entry(ref, entry.record, entry.since))
        return entry

    def _keep(self, ref: Ref, entry: _Entry) -> None:
        """Keeps an entry, where the one before it was, and lets go of those that were not asked for longest."""
        replaced = self._entries.get(ref)
        self._bytes += entry.held_bytes - (replaced.held_bytes if replaced is not None else 0)
        self._entries[ref] = entry
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._bytes -= self._entries.popitem(last=False)[1].held_bytes

    def apply(self, changes: Sequence[Change]) -> None:
        """Replaces entries by what the log says, and notes the changes to records that are being read."""
        for change in changes:
            if change.ref.kind is Kind.CONFIG:
                self._fallback_cache.put(_fallback_entry(change.ref, change.record, change.revision))
            entry = self._entries.get(change.ref)
            if entry is not None and change.revision > entry.until:
                self._keep(change.ref, _Entry(change.record, change.revision, change.revision, change.history))
            flying = self._flights.get(change.ref)
            if flying is not None:
                flying[0].noted[change.ref] = change

    def reset(self, revision: int) -> None:
        """Forgets everything; a read that is under way is kept only if it is of this revision or above."""
        self._entries.clear()
        self._bytes = 0
        for flight, _ in self._flights.values():
            flight.floor = revision
            flight.noted.clear()


def _fallback_entry(ref: Ref, record: Record | None, revision: int) -> FallbackEntry:
    size = 0 if record is None else record.held_bytes
    return FallbackEntry(config_key(ref), revision, lambda: None if record is None else record_json(record), size)
