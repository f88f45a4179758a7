"""The desired registrations: records, all of them in memory at every replica, kept up to date by the log.

Whoever the record names is the instance's owner, whatever a session says: what an owner writes is decided on the record,
inside the store's transaction, so that a replica that was cut off or has slept can't act on what it no longer owns.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from configsvc.app.changelog.position import LogPosition
from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.clock import Clock
from configsvc.domain import instances
from configsvc.domain.instances import Incarnation
from configsvc.domain.record_json import record_json, record_of
from configsvc.domain.records import Action, Author, Change, Commit, Kind, Mutation, Record, Ref, View, Write
from configsvc.errors import ServiceError, Unavailable
from configsvc.storage.port import Reader, RecordQuery, Writer

logger = logging.getLogger(__name__)

# All registrations are read in one view; a fleet has thousands, not millions.
INSTANCES = 1_000_000
# Between two tries to read the registrations of a store that is away.
RELOAD_SECONDS = 1.0
# Where the copy of the services' names lies.
SERVICES_KEY = "services"

Decide = Callable[[View], Sequence[Mutation]]


class Follower(Protocol):
    """Is told what becomes of each registration, between two awaits, in the order of the log."""

    def taken(self, record: Record, before: Record | None) -> None:
        """A registration is new, or has changed; `before` is what was known of it."""
        ...

    def dropped(self, record: Record) -> None:
        """A registration is gone; `record` is the last that was known of it."""
        ...


class Registrations:
    """All registrations of all services, as this replica (`me`) knows them."""

    def __init__(
        self,
        *,
        writer: Writer,
        reader: Reader,
        clock: Clock,
        fallback_cache: FallbackCache,
        log: LogPosition,
        me: str,
    ) -> None:
        self.me = me
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._fallback_cache = fallback_cache
        self._records: dict[str, dict[str, Record]] = {}
        self._followers: list[Follower] = []
        self._log = log
        self._loaded = asyncio.Event()
        # The revision of the last reading, and whether the log has told everything since.
        self._read_at = 0
        self._is_current = False
        fallback_cache.add_source(lambda: [copy for name in self._records for copy in self._fallback_entries(name)])

    def follow(self, follower: Follower) -> None:
        """Tells `follower` from now on, after those who follow already."""
        self._followers.append(follower)

    @property
    def is_loaded(self) -> bool:
        """Whether all were read since the start."""
        return self._loaded.is_set()

    async def loaded(self) -> None:
        """Returns when they have been."""
        await self._loaded.wait()

    @property
    def revision(self) -> int:
        """The revision at which they are known: nothing up to it is missing."""
        return max(self._read_at, self._log.applied) if self._is_current else self._read_at

    @property
    def history(self) -> str:
        """The history of the log that they are of."""
        return self._log.history

    @property
    def services(self) -> Sequence[str]:
        """The services that have registrations."""
        return tuple(self._records)

    def of(self, service: str) -> Mapping[str, Record]:
        """A service's registrations by instance id. Raises `Unavailable` where none were read yet."""
        if not self.is_loaded and service not in self._records:
            raise not_loaded()
        return self._records.get(service, {})

    def get(self, ref: Ref) -> Record | None:
        """One registration."""
        return self._records.get(ref.service, {}).get(ref.key)

    def all(self) -> list[Record]:
        """Every registration."""
        return [record for records in self._records.values() for record in records.values()]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self._records.values()))

    def owned(self, service: str = "") -> list[Record]:
        """Those that this replica owns; of one service where it is named."""
        records = self._records.get(service, {}).values() if service else self.all()
        return [record for record in records if self.owns(record)]

    def owns(self, record: Record | None) -> bool:
        """Whether this replica owns a registration."""
        return record is not None and record.body["owner"] == self.me

    async def load(self) -> None:
        """Reads all of them. Raises `Unavailable`."""
        page = await self._reader.page(RecordQuery(Kind.INSTANCE, "", limit=INSTANCES))
        if page.history != (history := self._log.history):
            # The log has another history, and the tail knows in a moment.
            raise Unavailable(f"the registrations are of history {page.history}, not {history}", "HISTORY_CHANGED")
        fresh = {record.ref for record in page.records}
        for known in self.all():
            if known.ref not in fresh and (known.revision <= page.revision or known.history != history):
                self._drop(known.ref)
        for record in page.records:
            self.take(record)
        self._read_at, self._is_current = page.revision, True
        self._loaded.set()

    def outdate(self) -> None:
        """The log can't say what has changed: what is known may be old until all are read anew."""
        self._is_current = False

    async def reload(self) -> None:
        """Reads all of them, as soon as that can be done."""
        while True:
            try:
                await self.load()
                return
            except ServiceError as error:
                logger.warning("the registrations can't be read: %s", error)
                await self._clock.sleep(RELOAD_SECONDS)

    async def load_copies(self) -> None:
        """Takes in what other replicas left in the shared cache, while the store is away."""
        names = (await self._fallback_cache.get([SERVICES_KEY])).get(SERVICES_KEY, (0, []))[1]
        for _, records in (await self._fallback_cache.get([service_key(name) for name in names])).values():
            for record in map(record_of, records):
                self.take(record)

    def apply(self, changes: Sequence[Change]) -> None:
        """Takes in what the log says, in order, and leaves copies of it."""
        self._apply(changes)
        revision = changes[-1].revision if changes else 0
        for service in {change.ref.service for change in changes if change.ref.kind is Kind.INSTANCE}:
            for copy in self._fallback_entries(service, revision):
                self._fallback_cache.put(copy)

    def take(self, record: Record) -> None:
        """Takes in a registration, unless what is known of it is as new, or it is of another history of the log."""
        before, history = self.get(record.ref), self._log.history
        if record.history != history:
            return
        if before is not None and before.history == history and before.revision >= record.revision:
            return
        if before is not None and instances.incarnation_of(before) != instances.incarnation_of(record):
            # It left and came back while the log was not read. What was learnt of it ends all the same.
            self._drop(record.ref)
            before = None
        self._records.setdefault(record.ref.service, {})[record.ref.key] = record
        for follower in self._followers:
            follower.taken(record, before)

    async def write(self, ref: Ref, author: Author, decide: Decide, fingerprint: str = "") -> Commit:
        """Writes what `decide` makes of one registration; what is written here is known here when this returns."""
        commit = await self._writer.write(Write(author, (ref,), decide, fingerprint))
        if not commit.replayed:
            self._apply(commit.changes)
        return commit

    async def own_write(self, ref: Ref, actor: str, reason: str, decide: Decide) -> Commit:
        """The same, by the service itself."""
        return await self.write(ref, Author(actor, reason, "", self._clock.now()), decide)

    async def set_status(
        self,
        incarnation: Incarnation,
        status: str,
        actor: str,
        reason: str,
        *,
        of: str = "",
        as_owner_of: str | None = None,
    ) -> None:
        """Writes a status, if the incarnation is there and has another one (with `of`: that one).

        With `as_owner_of` only if this replica still owns it, and that is still its health check URL.
        """

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(incarnation.ref)
            if current is None or instances.incarnation_of(current) != incarnation:
                return ()
            if current.body["status"] == status or (of and current.body["status"] != of):
                return ()
            if as_owner_of is not None and not (self.owns(current) and current.body["health_check_url"] == as_owner_of):
                return ()
            return (instances.restated(current, Action.STATUS, status=status),)

        await self.own_write(incarnation.ref, actor, reason, decide)

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.ref.kind is not Kind.INSTANCE:
                continue
            if change.record is not None:
                self.take(change.record)
                continue
            known = self.get(change.ref)
            if known is not None and known.history == change.history and known.revision < change.revision:
                self._drop(change.ref)

    def _drop(self, ref: Ref) -> None:
        known = self._records[ref.service].pop(ref.key)
        if not self._records[ref.service]:
            del self._records[ref.service]
        for follower in self._followers:
            follower.dropped(known)

    def _fallback_entries(self, service: str, revision: int = 0) -> tuple[FallbackEntry, ...]:
        """Copies of what is known, which must not be older than it is said to be."""
        if not self._is_current:
            return ()
        revision = max(revision, self.revision)
        return (
            FallbackEntry(
                service_key(service), revision, lambda: [*map(record_json, self._records.get(service, {}).values())]
            ),
            FallbackEntry(SERVICES_KEY, revision, lambda: sorted(self._records)),
        )


def service_key(service: str) -> str:
    """Where the copy of a service's registrations lies."""
    return f"service:{service}"


def not_loaded() -> Unavailable:
    """Nothing is known, which is not that there is nothing."""
    return Unavailable("the registrations have not been read since this replica started", "REGISTRY_NOT_LOADED")
