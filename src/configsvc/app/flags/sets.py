"""The compiled flags of each environment: read whole in one view, then kept up to date by the change log."""

from collections.abc import Sequence

from configsvc_client.evaluation import Flag, FlagSet

from configsvc.app.changelog.tail import LogTail
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE, FallbackCache, FallbackEntry
from configsvc.domain import flags
from configsvc.domain.records import Change, Kind
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.single_flight import SingleFlight
from configsvc.storage.port import Reader, RecordQuery

# A flag set is read whole, in one view. An environment with more flags is refused, not cut.
FLAGS_PER_ENVIRONMENT = 100_000
# Compiled sets are kept for this many environments; a fleet has a handful.
ENVIRONMENTS = 256


class FlagSets:
    """Flag sets by environment, whole or not at all; a `LogFollower`."""

    def __init__(self, *, reader: Reader, tail: LogTail, fallback_cache: FallbackCache = NO_FALLBACK_CACHE) -> None:
        self._reader = reader
        self._tail = tail
        self._sets: dict[str, FlagSet] = {}
        self._reads = SingleFlight[str, FlagSet]("flag-set")
        # For each read on its way: the changes that the log has told since the read began.
        self._changes_since_read: dict[str, list[Change]] = {}
        # Copies that other replicas left, while the store is away.
        self._copied: dict[str, FlagSet] = {}
        self._fallback_cache = fallback_cache
        fallback_cache.add_source(lambda: [_fallback_entry(flag_set) for flag_set in self._sets.values()])

    async def get(self, environment: str) -> FlagSet:
        """The set; while the store is away, the one in memory or the copy that another replica left.

        Raises:
            Unavailable: the store is away, and there is neither.
            ResourceExhausted: the environment has more flags than one set may have.
        """
        if (flag_set := self._sets.get(environment)) is not None:
            return flag_set
        is_stale = self._tail.stale_since is not None
        if is_stale and (flag_set := await self._find_fallback_entry(environment)) is not None:
            return flag_set
        if not is_stale:
            self._copied.clear()
        try:
            return await self._reads.run(environment, lambda: self._read(environment))
        except Unavailable as error:
            self._tail.mark_stale(error)
            if (flag_set := await self._find_fallback_entry(environment)) is None:
                raise
            return flag_set

    def revision_of(self, flag_set: FlagSet) -> int:
        """The revision at which a set is known: that of the log, if the log keeps the set up to date."""
        if self._sets.get(flag_set.environment) is flag_set:
            return max(flag_set.revision, self._tail.applied)
        return flag_set.revision

    def apply(self, changes: Sequence[Change]) -> None:
        """Applies changes of the log. A set is replaced between two evaluations, never changed under one."""
        for change in changes:
            if change.ref.kind is not Kind.FLAG:
                continue
            environment = change.ref.environment
            if (since_read := self._changes_since_read.get(environment)) is not None:
                since_read.append(change)
            if (flag_set := self._sets.get(environment)) is not None:
                self._sets[environment] = _changed(flag_set, change)
                self._fallback_cache.put(_fallback_entry(self._sets[environment]))

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to a revision: the next query of each environment reads its set again."""
        self._sets.clear()
        for environment in self._changes_since_read:
            self._reads.forget(environment)
        self._changes_since_read.clear()
        self._copied.clear()

    async def _find_fallback_entry(self, environment: str) -> FlagSet | None:
        if environment not in self._copied:
            key = f"flags:{environment}"
            found = (await self._fallback_cache.get([key])).get(key)
            if found is None:
                return None
            # The set stays whole: a flag that this release can't read is in it, as an error of its own.
            self._copied[environment] = FlagSet(environment, map(Flag.from_stored, found.value), found.revision)
        return self._copied[environment]

    async def _read(self, environment: str) -> FlagSet:
        since_read: list[Change] = []
        self._changes_since_read[environment] = since_read
        try:
            page = await self._reader.page(RecordQuery(Kind.FLAG, environment, limit=FLAGS_PER_ENVIRONMENT))
            if page.more:
                raise ResourceExhausted(f"environment '{environment}' has more than {FLAGS_PER_ENVIRONMENT} flags")
            flag_set = FlagSet(environment, (flags.flag_of(record) for record in page.records), page.revision)
            if page.history != self._tail.history:
                # The log has another history and the tail does not know yet, or this page is of the one before.
                self._tail.request_read()
                return flag_set
            # After a reset these are not the changes of this read: they may have a gap, so the set is not kept.
            if self._changes_since_read.get(environment) is since_read:
                for change in since_read:
                    flag_set = _changed(flag_set, change)
                self._keep(flag_set)
            return flag_set
        finally:
            if self._changes_since_read.get(environment) is since_read:
                del self._changes_since_read[environment]

    def _keep(self, flag_set: FlagSet) -> None:
        if len(self._sets) >= ENVIRONMENTS:
            self._sets.pop(next(iter(self._sets)))
        self._sets[flag_set.environment] = flag_set
        self._fallback_cache.put(_fallback_entry(flag_set))


def _changed(flag_set: FlagSet, change: Change) -> FlagSet:
    if change.revision <= flag_set.revision:
        return flag_set
    record = change.record
    if record is None:
        return flag_set.without_flag(change.ref.key, revision=change.revision)
    return flag_set.with_flag(flags.flag_of(record), revision=change.revision)


def _fallback_entry(flag_set: FlagSet) -> FallbackEntry:
    return FallbackEntry(
        f"flags:{flag_set.environment}", flag_set.revision, lambda: [flag.to_json() for flag in flag_set]
    )
