"""A service's watch: its registrations from the change log, and the foreign instances that the registry shows.

The foreign instances are in no log. So a watch sends them as a state: all of them before `Synced`, or as soon as they are
known, then each change. A client that resumes gets the whole state again, because what changed meanwhile is not known. A
foreign change carries the revision that the watcher has already been told, so resuming after it loses nothing.

What is sent next depends on what the watcher was sent, so nothing is sent twice. A registration hides a foreign instance of
the same id: when it comes, it replaces the foreign instance without a deletion; when it ends, the foreign instance follows
its deletion. A client that resumes may hold registrations that have ended since. So it gets the foreign instances after it
was told everything that it missed.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from configsvc.app.changelog.position import LogPosition
from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.watch.events import Changed, Notified, Progress, Snapshot, Synced, WatchEvent
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.app.watch.watcher import SendNow
from configsvc.domain.instances import Instance
from configsvc.domain.records import Kind


@dataclass(frozen=True, slots=True)
class ForeignSnapshot:
    """All foreign instances: they replace those that the watcher holds."""

    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class ForeignChanged:
    """A foreign instance came, changed, or went. `revision`: no change up to it is missing."""

    revision: int
    instance: Instance
    previous: Instance | None
    is_gone: bool = False


ServiceEvent = WatchEvent | ForeignSnapshot | ForeignChanged


class ServiceWatches:
    """Watches of services.

    `registered_ids(service)`: the ids whose registration the log has told, and not its end. `is_complete()`: whether the
    registry is reachable, and all of it was read.
    """

    def __init__(
        self,
        hub: WatchHub,
        foreign: ForeignInstances,
        log: LogPosition,
        *,
        registered_ids: Callable[[str], Collection[str]],
        is_complete: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._foreign = foreign
        self._log = log
        self._registered_ids = registered_ids
        self._is_complete = is_complete
        foreign.subscribe(lambda service: hub.notify(Kind.INSTANCE, "", service))

    @property
    def history(self) -> str:
        """The history of the log that all events belong to."""
        return self._hub.history

    async def watch(
        self, selector: Selector, after_revision: int | None, history: str = "", *, send_now: SendNow | None = None
    ) -> AsyncGenerator[ServiceEvent, None]:
        """The events of one watch, as of `WatchHub.watch`. The selector names a service."""
        service, is_synced = selector.service or "", False
        sent = _Sent() if after_revision is None else _Sent.unknown()
        events = self._hub.watch(
            selector,
            after_revision,
            history,
            send_now=None if send_now is None else partial(self._send_now, send_now, service, sent),
            notify_when_live=after_revision is not None,
        )
        async with aclosing(events):
            async for event in events:
                sent.add(event)
                if isinstance(event, Synced):
                    is_synced = True
                    if (snapshot := self._opening(service, sent)) is not None:
                        yield snapshot
                    yield event
                    continue
                if not isinstance(event, Notified):
                    yield event
                if not is_synced or (isinstance(event, Changed) and not event.completes):
                    # Resuming after a part of a revision would lose the rest of it.
                    continue
                if not sent.is_known:
                    is_live = isinstance(event, Notified) or sent.revision >= self._log.applied
                    if is_live and self._is_complete():
                        yield self._snapshot(service, sent)
                    continue
                # Computed again after each: things change while one is sent.
                while (change := next(sent.changes(self._foreign.of(service)), None)) is not None:
                    sent.add_foreign(change)
                    yield change

    def _send_now(self, send_now: SendNow, service: str, sent: "_Sent", event: Changed | Progress) -> bool:
        """Sends an event of the log, unless something of foreign instances may have to follow it."""
        if not sent.is_known or sent.foreign or self._foreign.of(service) or not send_now(event):
            return False
        sent.add(event)
        return True

    def _opening(self, service: str, sent: "_Sent") -> ForeignSnapshot | None:
        """The snapshot to send before `Synced`; None if there is nothing to say yet."""
        if not self._is_complete():
            return None
        if sent.is_known:
            return self._snapshot(service, sent) if sent.visible(self._foreign.of(service)) else None
        return self._snapshot(service, sent) if sent.revision >= self._log.applied else None

    def _snapshot(self, service: str, sent: "_Sent") -> ForeignSnapshot:
        if not sent.is_known:
            sent.registered = set(self._registered_ids(service))
            sent.is_known = True
        sent.foreign = sent.visible(self._foreign.of(service))
        return ForeignSnapshot(tuple(sent.foreign.values()))


class _Sent:
    """What a watcher holds, by instance id, and the revision that it was told."""

    def __init__(self) -> None:
        # False if it resumed: it may hold registrations and foreign instances of an earlier stream.
        self.is_known = True
        self.registered: set[str] = set()
        self.foreign: dict[str, Instance] = {}
        self.revision = 0

    @classmethod
    def unknown(cls) -> "_Sent":
        """Of a watcher that resumed."""
        sent = cls()
        sent.is_known = False
        return sent

    def add(self, event: WatchEvent) -> None:
        match event:
            case Snapshot(records):
                self.registered.update(record.ref.key for record in records)
            case Synced(revision) | Progress(revision):
                self.revision = revision
            case Changed(change, completes):
                self.revision = change.revision if completes else self.revision
                self.foreign.pop(change.ref.key, None)
                if change.record is None:
                    self.registered.discard(change.ref.key)
                else:
                    self.registered.add(change.ref.key)

    def add_foreign(self, change: ForeignChanged) -> None:
        if change.is_gone:
            del self.foreign[change.instance.instance_id]
        else:
            self.foreign[change.instance.instance_id] = change.instance

    def visible(self, foreign: Mapping[str, Instance]) -> dict[str, Instance]:
        """The foreign instances that no registration hides from this watcher."""
        return {name: instance for name, instance in foreign.items() if name not in self.registered}

    def changes(self, foreign: Mapping[str, Instance]) -> Iterator[ForeignChanged]:
        """The foreign changes that the watcher has not been sent."""
        for name, instance in self.visible(foreign).items():
            if self.foreign.get(name) != instance:
                yield ForeignChanged(self.revision, instance, self.foreign.get(name))
        for name, instance in self.foreign.items():
            if name not in foreign:
                yield ForeignChanged(self.revision, instance, instance, is_gone=True)
