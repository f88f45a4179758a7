"""The desired registrations: records in the store. Every replica holds all of them in memory, and follows the log.

The record names the owner of an instance, whatever a registry session says. An owner's writes are decided on the record,
inside the store's transaction. So a replica that was cut off or paused can't act on an instance that it no longer owns.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from configsvc.app.changelog.position import LogPosition
from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.clock import Clock
from configsvc.domain.instances import Incarnation
from configsvc.domain.record_json import record_json, record_of
from configsvc.domain.records import Action, Author, Change, Commit, Kind, Mutation, Record, Ref, View, Write
from configsvc.domain.registrations import updated
from configsvc.errors import ServiceError, Unavailable
from configsvc.storage.port import Reader, RecordQuery, Writer

logger = logging.getLogger(__name__)

# All registrations are read in one page. A fleet has thousands of instances, not millions.
INSTANCES = 1_000_000
# The pause between two attempts to read the registrations from a store that is down.
RELOAD_SECONDS = 1.0
# The key of the services' names in the fallback cache.
SERVICES_KEY = "services"

Decide = Callable[[View], Sequence[Mutation]]


class RegistrationObserver(Protocol):
    """Is called for each change of a registration, in the order of the log. Calls don't await."""

    def on_put(self, record: Record, before: Record | None) -> None:
        """A registration is new or has changed. `before`: its last known record."""
        ...

    def on_remove(self, record: Record) -> None:
        """A registration is gone. `record`: its last known record."""
        ...


class Registrations:
    """All registrations of all services, as this replica knows them. `count`: how many there are."""

    def __init__(
        self,
        *,
        writer: Writer,
        reader: Reader,
        clock: Clock,
        fallback_cache: FallbackCache,
        log: LogPosition,
        replica_id: str,
    ) -> None:
        self.replica_id = replica_id
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._fallback_cache = fallback_cache
        self._log = log
        self._records: dict[str, dict[str, Record]] = {}
        self.count = 0
        # The services whose registrations were read from copies while the store was down.
        self._copied: set[str] = set()
        self._observers: list[RegistrationObserver] = []
        self._loaded = asyncio.Event()
        # The revision of the last complete read. `_is_current`: the log has delivered every change since.
        self._read_at = 0
        self._is_current = False
        # Removals that are known here before the log has delivered them, with their revision.
        self._early_removals: dict[Ref, int] = {}
        fallback_cache.add_source(lambda: [entry for name in self._records for entry in self._fallback_entries(name)])

    def subscribe(self, observer: RegistrationObserver) -> None:
        """Calls `observer` for each change from now on, after the observers that subscribed earlier."""
        self._observers.append(observer)

    @property
    def is_loaded(self) -> bool:
        """Whether all registrations were read from the store since the start."""
        return self._loaded.is_set()

    async def wait_loaded(self) -> None:
        """Returns when all registrations have been read."""
        await self._loaded.wait()

    @property
    def revision(self) -> int:
        """The revision of what is known: no change up to it is missing."""
        return max(self._read_at, self._log.applied) if self._is_current else self._read_at

    @property
    def history(self) -> str:
        """The history of the log that they belong to."""
        return self._log.history

    @property
    def services(self) -> Sequence[str]:
        """The services that have registrations."""
        return tuple(self._records)

    def of(self, service: str) -> Mapping[str, Record]:
        """A service's registrations by instance id.

        Raises `Unavailable` if they were not read yet: those that the log has told of since the start are not all.
        """
        if not self.is_loaded and service not in self._copied:
            raise not_loaded()
        return self._records.get(service, {})

    def ids_in_log(self, service: str) -> set[str]:
        """The ids of a service that are registered, or whose removal the log has not delivered yet."""
        early = {
            ref.key
            for ref, revision in self._early_removals.items()
            if ref.service == service and revision > self._log.applied
        }
        return {*self._records.get(service, {}), *early}

    def get(self, ref: Ref) -> Record | None:
        """One registration."""
        return self._records.get(ref.service, {}).get(ref.key)

    def all(self) -> list[Record]:
        """Every registration."""
        return [record for records in self._records.values() for record in records.values()]

    def owned(self, service: str = "") -> list[Record]:
        """The registrations that this replica owns, of one service or (empty) of all."""
        records = self._records.get(service, {}).values() if service else self.all()
        return [record for record in records if self.owns(record)]

    def owns(self, record: Record | None) -> bool:
        """Whether this replica owns a registration."""
        return record is not None and record.body["owner"] == self.replica_id

    async def load(self) -> None:
        """Reads all registrations. Raises `Unavailable`."""
        page = await self._reader.page(RecordQuery(Kind.INSTANCE, "", limit=INSTANCES))
        if page.history != (history := self.history):
            # The log was replaced. The tail notices that in a moment.
            raise Unavailable(f"the registrations are of history {page.history}, not {history}", "HISTORY_CHANGED")
        present = {record.ref for record in page.records}
        for known in self.all():
            if known.ref not in present and (known.revision <= page.revision or known.history != history):
                self._remove(known.ref, page.revision)
        # By service: the registry is then told of the instances of one service together, and its list changes once.
        for record in sorted(page.records, key=lambda record: record.ref.service):
            self.merge(record)
        self._read_at, self._is_current = page.revision, True
        self._loaded.set()

    async def reload(self) -> None:
        """Reads all registrations; retries until that succeeds."""
        while True:
            try:
                await self.load()
                return
            except ServiceError as error:
                logger.warning("the registrations can't be read: %s", error)
                await self._clock.sleep(RELOAD_SECONDS)

    async def load_fallback(self) -> None:
        """Reads what other replicas put into the fallback cache, while the store is down."""
        services = (await self._fallback_cache.get([SERVICES_KEY])).get(SERVICES_KEY)
        if services is None:
            return
        cached = await self._fallback_cache.get([service_key(name) for name in services.value])
        for name in services.value:
            if (records := cached.get(service_key(name))) is None:
                continue
            self._copied.add(name)
            for record in map(record_of, records.value):
                self.merge(record)

    def mark_outdated(self) -> None:
        """The log can't say which registrations changed: they may be out of date until all of them are read again."""
        self._is_current = False
        # The log may have another history, whose revisions are not comparable with these.
        self._early_removals.clear()

    def apply(self, changes: Sequence[Change]) -> None:
        """Applies changes of the log, in order, and puts the result into the fallback cache."""
        self._apply(changes)
        applied = self._log.applied
        self._early_removals = {ref: at for ref, at in self._early_removals.items() if at > applied}
        revision = changes[-1].revision if changes else 0
        for service in {change.ref.service for change in changes if change.ref.kind is Kind.INSTANCE}:
            for entry in self._fallback_entries(service, revision):
                self._fallback_cache.put(entry)

    def merge(self, record: Record) -> None:
        """Takes over a record, unless the known one is as new, or the record belongs to another history of the log."""
        before, history = self.get(record.ref), self.history
        if record.history != history:
            return
        if before is not None and before.history == history and before.revision >= record.revision:
            return
        if record.revision <= self._early_removals.get(record.ref, 0):
            # The log delivers what came before a removal that is already known here.
            return
        if before is not None and Incarnation.of(before) != Incarnation.of(record):
            # The instance left and came back while the log was not read. The state of the earlier life ends all the same.
            self._remove(record.ref, record.revision)
            before = None
        self._records.setdefault(record.ref.service, {})[record.ref.key] = record
        self.count += before is None
        for observer in self._observers:
            observer.on_put(record, before)

    async def write(self, ref: Ref, author: Author, decide: Decide, fingerprint: str = "") -> Commit:
        """Writes one registration as `decide` says. The result is applied here before this returns."""
        commit = await self._writer.write(Write(author, (ref,), decide, fingerprint))
        if not commit.replayed:
            self._apply(commit.changes)
        return commit

    async def write_as_service(self, ref: Ref, actor: str, reason: str, decide: Decide) -> Commit:
        """The same for a write of the service itself, which no caller asked for."""
        return await self.write(ref, Author(actor, reason, "", self._clock.now()), decide)

    async def set_status(
        self,
        incarnation: Incarnation,
        status: str,
        actor: str,
        reason: str,
        *,
        expected_status: str = "",
        checked_url: str | None = None,
    ) -> None:
        """Writes a status, if the incarnation is still registered and has another status.

        `expected_status`: write only if it has this status now. `checked_url`: write only if this replica still owns the
        instance, and this is still its health check URL.
        """

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(incarnation.ref)
            if current is None or Incarnation.of(current) != incarnation:
                return ()
            if current.body["status"] == status:
                return ()
            if expected_status and current.body["status"] != expected_status:
                return ()
            if checked_url is not None and not (self.owns(current) and current.body["health_check_url"] == checked_url):
                return ()
            return (updated(current, Action.STATUS, status=status),)

        await self.write_as_service(incarnation.ref, actor, reason, decide)

    def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.ref.kind is not Kind.INSTANCE:
                continue
            if change.record is not None:
                self.merge(change.record)
                continue
            known = self.get(change.ref)
            if known is not None and known.history == change.history and known.revision < change.revision:
                self._remove(change.ref, change.revision)

    def _remove(self, ref: Ref, revision: int) -> None:
        if revision > self._log.applied:
            self._early_removals[ref] = revision
        known = self._records[ref.service].pop(ref.key)
        self.count -= 1
        if not self._records[ref.service]:
            del self._records[ref.service]
        for observer in self._observers:
            observer.on_remove(known)

    def _fallback_entries(self, service: str, revision: int = 0) -> tuple[FallbackEntry, ...]:
        """Entries for the fallback cache; none if the registrations are outdated: an entry must not claim a newer revision."""
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
    """The key of a service's registrations in the fallback cache."""
    return f"service:{service}"


def not_loaded() -> Unavailable:
    """The error for a read before the registrations are known. "Unknown" is not "there are none"."""
    return Unavailable("the registrations have not been read since this replica started", "REGISTRY_NOT_LOADED")
