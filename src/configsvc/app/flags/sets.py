"""The compiled flags of each environment, read whole in one view and then kept up to date by the log."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from configsvc_client.evaluation import Flag, FlagSet

from configsvc.app.changelog.tail import LogTail
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE, FallbackCache, FallbackEntry
from configsvc.domain import flags
from configsvc.domain.records import Change, Kind
from configsvc.errors import ResourceExhausted, Unavailable
from configsvc.storage.port import Reader, RecordQuery

# A flag set is read whole, in one view. Beyond this an environment is refused, not cut.
FLAGS_PER_ENVIRONMENT = 100_000
# Compiled sets are kept for this many environments; a fleet has a handful.
ENVIRONMENTS = 256


@dataclass(eq=False, slots=True)
class _Loading:
    """A read of a whole set that is on its way, and what the log has told since it began."""

    task: "asyncio.Task[FlagSet]"
    changes: list[Change] = field(default_factory=list)


class FlagSets:
    """Flag sets by environment, whole or not at all; a `LogFollower`."""

    def __init__(self, *, reader: Reader, tail: LogTail, fallback_cache: FallbackCache = NO_FALLBACK_CACHE) -> None:
        self._reader = reader
        self._tail = tail
        self._sets: dict[str, FlagSet] = {}
        self._loading: dict[str, _Loading] = {}
        # What other replicas left, for as long as the store is away.
        self._copied: dict[str, FlagSet] = {}
        self._fallback_cache = fallback_cache
        fallback_cache.add_source(lambda: [_fallback_entry(flag_set) for flag_set in self._sets.values()])

    async def of(self, environment: str) -> FlagSet:
        """The set; while the store is away, what is in memory, or the copy that another replica left.

        Raises:
            Unavailable: the store is away, and there is neither.
            ResourceExhausted: the environment has more flags than one set may have.
        """
        if (flag_set := self._sets.get(environment)) is not None:
            return flag_set
        stale = self._tail.stale_since is not None
        if stale and (flag_set := await self._find_fallback_entry(environment)) is not None:
            return flag_set
        if not stale:
            self._copied.clear()
        try:
            return await self._read_set(environment)
        except Unavailable as error:
            self._tail.doubt(error)
            if (flag_set := await self._find_fallback_entry(environment)) is None:
                raise
            return flag_set

    def revision_of(self, flag_set: FlagSet) -> int:
        """The revision at which a set is known: where the log keeps it up to date, that of the log."""
        if self._sets.get(flag_set.environment) is flag_set:
            return max(flag_set.revision, self._tail.applied)
        return flag_set.revision

    def history_of(self, flag_set: FlagSet) -> str:
        """The history of the log that a set is of; empty where it is not the one in use any more."""
        held = (self._sets.get(flag_set.environment), self._copied.get(flag_set.environment))
        return self._tail.history if any(one is flag_set for one in held) else ""

    def apply(self, changes: Sequence[Change]) -> None:
        """Takes in what the log says. A set changes between two evaluations, never under one."""
        for change in changes:
            if change.ref.kind is not Kind.FLAG:
                continue
            environment = change.ref.environment
            if (loading := self._loading.get(environment)) is not None:
                loading.changes.append(change)
            if (flag_set := self._sets.get(environment)) is not None:
                self._sets[environment] = _changed(flag_set, change)
                self._fallback_cache.put(_fallback_entry(self._sets[environment]))

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to a revision: sets are read anew when they are asked for."""
        self._sets.clear()
        self._loading.clear()
        self._copied.clear()

    async def _find_fallback_entry(self, environment: str) -> FlagSet | None:
        if environment not in self._copied:
            key = f"flags:{environment}"
            found = (await self._fallback_cache.get([key])).get(key)
            if found is None:
                return None
            revision, definitions = found
            # Whole or not at all: a flag that can't be read is in it, and says so.
            self._copied[environment] = FlagSet(environment, map(Flag.from_stored, definitions), revision)
        return self._copied[environment]

    async def _read_set(self, environment: str) -> FlagSet:
        """One read of an environment at a time, whoever asks."""
        loading = self._loading.get(environment)
        if loading is None:
            loading = _Loading(asyncio.create_task(self._load(environment), name=f"flag-set-{environment}"))
            # Its error is every waiter's; where all of them have gone, it is nobody's.
            loading.task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._loading[environment] = loading
        # A caller that gives up does not take the read from the others.
        return await asyncio.shield(loading.task)

    async def _load(self, environment: str) -> FlagSet:
        loading = self._loading.get(environment)
        try:
            page = await self._reader.page(RecordQuery(Kind.FLAG, environment, limit=FLAGS_PER_ENVIRONMENT))
            if page.more:
                raise ResourceExhausted(f"environment '{environment}' has more than {FLAGS_PER_ENVIRONMENT} flags")
            flag_set = FlagSet(environment, (flags.stored(record) for record in page.records), page.revision)
            if page.history != self._tail.history:
                # The log has another history, and the tail does not know yet, or this answer is from before.
                self._tail.suspect()
                return flag_set
            if loading is not None and self._loading.get(environment) is loading:
                for change in loading.changes:
                    flag_set = _changed(flag_set, change)
                if len(self._sets) >= ENVIRONMENTS:
                    self._sets.pop(next(iter(self._sets)))
                self._sets[environment] = flag_set
                self._fallback_cache.put(_fallback_entry(flag_set))
            return flag_set
        finally:
            if self._loading.get(environment) is loading:
                self._loading.pop(environment, None)


def _changed(flag_set: FlagSet, change: Change) -> FlagSet:
    if change.revision <= flag_set.revision:
        return flag_set
    record = change.record
    if record is None:
        return flag_set.without_flag(change.ref.key, revision=change.revision)
    return flag_set.with_flag(flags.stored(record), revision=change.revision)


def _fallback_entry(flag_set: FlagSet) -> FallbackEntry:
    return FallbackEntry(
        f"flags:{flag_set.environment}", flag_set.revision, lambda: [flag.to_json() for flag in flag_set]
    )
