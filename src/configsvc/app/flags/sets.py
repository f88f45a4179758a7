"""The compiled flags of each environment: read whole in one view, then kept up to date by the change log."""

from collections.abc import Iterator, Sequence

from configsvc_client.evaluation import FlagSet

from configsvc.app.changelog.tail import LogTail
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE, FallbackCache, FallbackEntry
from configsvc.app.flags.compilation import compile_set
from configsvc.app.flags.copies import FlagSetParts, find_copy
from configsvc.app.flags.held_sets import DEFAULT_BYTES, HeldSets, bytes_of
from configsvc.domain import flags
from configsvc.domain.records import Change, Kind
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.single_flight import SingleFlight
from configsvc.storage.port import Reader, RecordQuery

# A flag set is read whole, in one view. An environment with more flags is refused, not cut.
FLAGS_PER_ENVIRONMENT = 100_000


class FlagSets:
    """Flag sets by environment, whole or not at all; a `LogFollower`."""

    def __init__(
        self,
        *,
        reader: Reader,
        tail: LogTail,
        fallback_cache: FallbackCache = NO_FALLBACK_CACHE,
        max_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self._reader = reader
        self._tail = tail
        self._sets = HeldSets(max_bytes, self._on_evicted)
        self._reads = SingleFlight[str, FlagSet]("flag-set")
        # For each read on its way: the changes that the log has told since the read began.
        self._changes_since_read: dict[str, list[Change]] = {}
        self._forget_copies()
        self._fallback_cache = fallback_cache
        # The sets as the fallback cache gets them. Empty without one.
        self._parts: dict[str, FlagSetParts] = {}
        fallback_cache.add_source(self._fallback_entries)

    async def get(self, environment: str) -> FlagSet:
        """The set; while the store is away, the one in memory or the copy that another replica left.

        Raises:
            Unavailable: the store is away, and there is neither.
            ResourceExhausted: the environment has more flags than one set may have.
        """
        if (flag_set := self._sets.use(environment)) is not None:
            return flag_set
        is_stale = self._tail.stale_since is not None
        if is_stale and (flag_set := await self._find_copy(environment)) is not None:
            return flag_set
        if not is_stale:
            self._forget_copies()
        try:
            return await self._reads.run(environment, lambda: self._read(environment))
        except Unavailable as error:
            self._tail.mark_stale(error)
            if (flag_set := await self._find_copy(environment)) is None:
                raise
            return flag_set

    def peek(self, environment: str) -> FlagSet | None:
        """The set that `get` would return now without a wait, if the log keeps it up to date."""
        return self._sets.use(environment) if self._tail.stale_since is None else None

    def revision_of(self, flag_set: FlagSet) -> int:
        """The revision at which a set is known: that of the log, if the log keeps the set up to date."""
        if self._sets.is_held(flag_set):
            return max(flag_set.revision, self._tail.applied)
        return flag_set.revision

    def apply(self, changes: Sequence[Change]) -> None:
        """Applies changes of the log. A set is replaced between two evaluations, never changed under one."""
        changes_by_environment: dict[str, list[Change]] = {}
        for change in changes:
            if change.ref.kind is Kind.FLAG:
                changes_by_environment.setdefault(change.ref.environment, []).append(change)
        for environment, changes_here in changes_by_environment.items():
            if (since_read := self._changes_since_read.get(environment)) is not None:
                since_read += changes_here
            if (flag_set := self._sets.get(environment)) is None:
                continue
            changed = _changed(flag_set, changes_here)
            if changed is flag_set:
                continue
            new = [change for change in changes_here if change.revision > flag_set.revision]
            self._sets.replace(changed, sum(change.after_bytes - change.before_bytes for change in new))
            if (parts := self._parts.get(environment)) is not None:
                for entry in parts.replace(changed, [change.ref.key for change in changes_here]):
                    self._fallback_cache.put(entry)

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to a revision: the next query of each environment reads its set again."""
        self._sets.clear()
        self._parts.clear()
        for environment in self._changes_since_read:
            self._reads.forget(environment)
        self._changes_since_read.clear()
        self._forget_copies()

    def _forget_copies(self) -> None:
        # Copies that other replicas left, while the store is away. The objects are new, so that a read that is on its
        # way leaves nothing here.
        self._copied: dict[str, FlagSet] = {}
        self._copy_reads = SingleFlight[str, FlagSet | None]("flag-set-copy")

    async def _find_copy(self, environment: str) -> FlagSet | None:
        copied = self._copied
        if environment not in copied:
            found = await self._copy_reads.run(environment, lambda: find_copy(self._fallback_cache, environment))
            if found is None:
                return None
            copied[environment] = found
        return copied[environment]

    async def _read(self, environment: str) -> FlagSet:
        since_read: list[Change] = []
        self._changes_since_read[environment] = since_read
        try:
            page = await self._reader.page(RecordQuery(Kind.FLAG, environment, limit=FLAGS_PER_ENVIRONMENT))
            if page.more:
                raise ResourceExhausted(f"environment '{environment}' has more than {FLAGS_PER_ENVIRONMENT} flags")
            flag_set = await compile_set(environment, page.records, flags.flag_of, page.revision)
            if page.history != self._tail.history:
                # The log has another history and the tail does not know yet, or this page is of the one before.
                self._tail.request_read()
                return flag_set
            # After a reset these are not the changes of this read: they may have a gap, so the set is not kept.
            if self._changes_since_read.get(environment) is since_read:
                flag_set = _changed(flag_set, since_read)
                self._keep(flag_set, bytes_of(page.records))
            return flag_set
        finally:
            if self._changes_since_read.get(environment) is since_read:
                del self._changes_since_read[environment]

    def _on_evicted(self, environment: str) -> None:
        self._parts.pop(environment, None)

    def _keep(self, flag_set: FlagSet, body_bytes: int) -> None:
        self._sets.keep(flag_set, body_bytes)
        if self._fallback_cache.is_enabled:
            parts = self._parts[flag_set.environment] = FlagSetParts(flag_set)
            for entry in parts.entries(flag_set.revision):
                self._fallback_cache.put(entry)

    def _fallback_entries(self) -> Iterator[FallbackEntry]:
        for environment, parts in self._parts.items():
            if (flag_set := self._sets.get(environment)) is not None:
                yield from parts.entries(self.revision_of(flag_set))


def _changed(flag_set: FlagSet, changes: Sequence[Change]) -> FlagSet:
    """The set after changes, which are whole revisions in order. Those that the set has already are left out."""
    records = {change.ref.key: change.record for change in changes if change.revision > flag_set.revision}
    if not records:
        return flag_set
    put = [flags.flag_of(record) for record in records.values() if record is not None]
    removed = [name for name, record in records.items() if record is None]
    return flag_set.with_changes(put, removed, changes[-1].revision)
