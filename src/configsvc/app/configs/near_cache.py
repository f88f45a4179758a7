"""Records in memory for reads by name: filled from the store on a miss, then kept up to date by the log.

How an old value is kept from coming back (docs/architecture.md, law 5). A fill reads the store at some revision F while
the log's tail goes on in this process. So when the answer arrives, the tail may have passed F, and with it a change to
this very record. Therefore the tail knows a fill from before its read begins: changes to its records are noted on the
fill, and on arrival the newer of the two wins. The other way round, a fill can be ahead of the tail. Then it contains the
tail's changes up to F already, and they are not applied again.

So each entry says "the record was this, from `since` at the latest, up to `until` at least", and `until` grows with the
tail. Entries stood together at one revision exactly if the latest `since` is not after the earliest `until`.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from configsvc.app.changelog.tail import LogTail
from configsvc.app.configs.near_entries import Encoding, Entry, NearEntries
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE, FallbackCache, FallbackEntry, config_key
from configsvc.domain.record_json import record_json, record_of
from configsvc.domain.records import Change, Kind, Record, Ref, View
from configsvc.errors import Unavailable
from configsvc.storage.port import Reader, RecordQuery

# About what the values in memory take, if the settings don't say otherwise.
NEAR_CACHE_BYTES = 128 << 20
# A read of this many records is not bounded in bytes.
UNBOUNDED_RECORDS = 16
# A larger read is kept in memory if it takes at most this part of the entries and of the bytes.
KEPT_PART = 1 / 16


@dataclass(eq=False, slots=True)
class _Fill:
    """One read of the store for several refs. `SingleFlight` has one run for each key; a fill is one run for many keys.

    `floor`: the tail has reported every change after this revision since the fill began. `changes`: the last of them, by
    ref.
    """

    refs: tuple[Ref, ...]
    floor: int
    changes: dict[Ref, Change] = field(default_factory=dict)


class NearCache:
    """Current records by ref. That a record is not live is an entry, too."""

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
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._entries = NearEntries(max_entries, max_bytes)
        self._fallback_cache = fallback_cache
        fallback_cache.add_source(
            lambda: [_fallback_entry(ref, entry.record, entry.since) for ref, entry in self._entries.items()]
        )
        self._fills: dict[Ref, tuple[_Fill, asyncio.Task[dict[Ref, Entry]]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held_bytes(self) -> int:
        """About what the values take in memory."""
        return self._entries.held_bytes

    def close(self) -> None:
        """Empties the cache for good: from now on it answers nothing from memory."""
        self._entries.clear()
        self._entries = NearEntries(0, 0)

    def peek(self, ref: Ref) -> Entry | None:
        """The entry of a record, if `get` would answer from it now; without a wait. It stays where it is in the order of use."""
        return self._entries.get(ref) if self._tail.stale_since is None else None

    def put_encoding(self, entry: Entry, contents: bytes) -> Encoding:
        """Keeps how callers get the record of an entry that `peek` has just returned."""
        encoding = Encoding(contents, entry.until)
        self._entries.put_encoding(entry, encoding)
        return encoding

    async def get(self, refs: Sequence[Ref]) -> View:
        """The live records among `refs`, as they stood together at the view's revision.

        That revision is at or above the revision that the tail had applied at the call. If the store is down, the answer
        comes from memory and from what replicas put into the fallback cache; if a record is in neither, `Unavailable` is
        raised.
        """
        if self._tail.stale_since is not None and (view := await self._get_stale(refs)) is not None:
            # The store is known to be down; don't wait for another timeout.
            return view
        try:
            return await self._get_current(refs)
        except Unavailable as error:
            self._tail.mark_stale(error)
            if (view := await self._get_stale(refs)) is None:
                raise
            return view

    async def get_within(self, refs: Sequence[Ref], max_bytes: int) -> tuple[View, frozenset[Ref]]:
        """`get` for many configurations of one service, in the order of keys, until their bodies have `max_bytes`.

        Returns the refs that were not read beside the view. The result of such a read is kept in memory only if it is a
        small part of that. Otherwise it would evict what callers ask for by name.
        """
        is_small = len(refs) <= UNBOUNDED_RECORDS or all(ref in self._entries for ref in refs)
        if is_small or self._tail.stale_since is not None:
            return await self.get(refs), frozenset()
        keys = tuple(ref.key for ref in refs)
        query = RecordQuery(refs[0].kind, refs[0].environment, len(refs), (refs[0].service,), keys, max_bytes=max_bytes)
        try:
            page = await self._reader.page(query)
        except Unavailable as error:
            self._tail.mark_stale(error)
            return await self.get(refs), frozenset()
        held_bytes = sum(record.held_bytes for record in page.records)
        if not page.more and len(refs) <= self._max_entries * KEPT_PART and held_bytes <= self._max_bytes * KEPT_PART:
            # They are few and small after all: from now on they are in memory.
            return await self.get(refs), frozenset()
        view = View(page.revision, {record.ref: record for record in page.records})
        return view, frozenset(ref for ref in refs if page.more and ref.key > page.records[-1].ref.key)

    async def _get_current(self, refs: Sequence[Ref]) -> View:
        found: dict[Ref, Entry] = {}
        missing = [ref for ref in refs if ref not in self._entries]
        if missing:
            found = await self._fill(missing)
        for ref in refs:
            entry = self._entries.use(ref)
            if entry is not None:
                entry.until = max(entry.until, self._tail.applied)
                found[ref] = entry
            elif ref not in found:
                # It was in memory at the start, and was evicted during the fill.
                return await self._reader.get(refs)
        if not found:
            return View(self._tail.applied, {}, history=self._tail.history)
        if missing and len({entry.history for entry in found.values()}) > 1:
            # The log got another history during the fill: states of two histories don't belong together.
            return await self._reader.get(refs)
        until = min(entry.until for entry in found.values())
        if max(entry.since for entry in found.values()) > until:
            # They were not read together, and the tail has not come far enough to tell that they stood together.
            with contextlib.suppress(Unavailable):
                return await self._reader.get(refs)
        live = {ref: entry.record for ref, entry in found.items() if entry.record is not None}
        return View(until, live, history=self._tail.history)

    async def _get_stale(self, refs: Sequence[Ref]) -> View | None:
        """From memory and the fallback cache, without the store; None if a record is in neither."""
        records: dict[Ref, Record | None] = {}
        revisions = []
        for ref in refs:
            if (entry := self._entries.get(ref)) is not None:
                records[ref] = entry.record
                revisions.append(max(entry.until, self._tail.applied))
        missing = {config_key(ref): ref for ref in refs if ref not in records}
        if missing:
            for key, cached in (await self._fallback_cache.get(list(missing))).items():
                records[missing[key]] = None if cached.value is None else record_of(cached.value)
                revisions.append(cached.revision)
        if len(records) < len(set(refs)):
            return None
        return View(min(revisions, default=0), {ref: record for ref, record in records.items() if record is not None})

    async def _fill(self, refs: Iterable[Ref]) -> dict[Ref, Entry]:
        """Reads the refs that no other fill is reading, and waits for all of them."""
        new = tuple(dict.fromkeys(ref for ref in refs if ref not in self._fills))
        if new:
            fill = _Fill(new, self._tail.applied)
            task = asyncio.create_task(self._read(fill), name="near-cache-fill")
            # Retrieve the exception, so that asyncio does not warn when every waiter was cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._fills.update(dict.fromkeys(new, (fill, task)))
        tasks = {ref: self._fills[ref][1] for ref in refs}
        for task in dict.fromkeys(tasks.values()):
            # A caller that is cancelled must not cancel the fill of the others.
            await asyncio.shield(task)
        return {ref: task.result()[ref] for ref, task in tasks.items()}

    async def _read(self, fill: _Fill) -> dict[Ref, Entry]:
        try:
            view = await self._reader.get(fill.refs)
            return {ref: self._accept(fill, ref, view) for ref in fill.refs}
        finally:
            for ref in fill.refs:
                del self._fills[ref]

    def _accept(self, fill: _Fill, ref: Ref, view: View) -> Entry:
        """The entry that a fill gives. It is kept in memory, unless it may be out of date."""
        record = view.get(ref)
        entry = Entry(record, record.revision if record else view.revision, view.revision, view.history)
        if view.history != self._tail.history:
            # The log has another history that the tail has not seen yet, or this answer is from before the change.
            self._tail.request_read()
            return entry
        if view.revision < fill.floor:
            # The answer is older than the fill, and the changes between the two are not known.
            return entry
        change = fill.changes.get(ref)
        if change is not None and change.revision > view.revision:
            entry = Entry(change.record, change.revision, change.revision, change.history)
        entry.until = max(entry.until, self._tail.applied)
        self._entries.put(ref, entry)
        self._fallback_cache.put(_fallback_entry(ref, entry.record, entry.since))
        return entry

    def apply(self, changes: Sequence[Change]) -> None:
        """Replaces entries by what the log says, and notes the changes to records that are being read."""
        keeps_copies = self._fallback_cache.is_enabled
        for change in changes:
            if keeps_copies and change.ref.kind is Kind.CONFIG:
                self._fallback_cache.put(_fallback_entry(change.ref, change.record, change.revision))
            entry = self._entries.get(change.ref)
            if entry is not None and change.revision > entry.until:
                self._entries.put(change.ref, Entry(change.record, change.revision, change.revision, change.history))
            if change.ref in self._fills:
                self._fills[change.ref][0].changes[change.ref] = change

    def reset(self, revision: int) -> None:
        """Removes all entries. The answer of a running fill is kept only if it is of this revision or above."""
        self._entries.clear()
        for fill, _ in self._fills.values():
            fill.floor = revision
            fill.changes.clear()


def _fallback_entry(ref: Ref, record: Record | None, revision: int) -> FallbackEntry:
    size = 0 if record is None else record.held_bytes
    return FallbackEntry(config_key(ref), revision, lambda: None if record is None else record_json(record), size)
