"""A service's watch: its registrations from the change log, and beside them what other programs show in the registry.

The latter are in no log. So a watch tells them as a state: all of them before `Synced`, or as soon as the registry is
read, then each change. A client that resumes gets the whole state again, since what has changed meanwhile is known to
nobody. A foreign change carries the revision that the watcher is told up to already: resuming after it loses nothing.

What a watcher has been sent decides what it gets, so that it is told nothing twice. An id that is registered here is the
registration's: when it comes, the foreign one is replaced without a deletion; when it goes, the foreign one follows its
deletion.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.watcher import Changed, Notified, Progress, Selector, Synced, WatchEvent
from configsvc.domain.instances import Instance
from configsvc.domain.records import Kind


@dataclass(frozen=True, slots=True)
class ForeignSnapshot:
    """All instances that other programs show: they replace those that the watcher holds."""

    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class ForeignChanged:
    """One of them came, changed, or went. `revision`: nothing up to it is missing."""

    revision: int
    instance: Instance
    previous: Instance | None
    is_gone: bool = False


ServiceEvent = WatchEvent | ForeignSnapshot | ForeignChanged


class ServiceWatches:
    """Watches of services. `is_registered(service, id)` and `is_complete()` say what the directory knows."""

    def __init__(
        self,
        hub: WatchHub,
        foreign: ForeignInstances,
        *,
        is_registered: Callable[[str, str], bool],
        is_complete: Callable[[], bool],
    ) -> None:
        self._hub = hub
        self._foreign = foreign
        self._is_registered = is_registered
        self._is_complete = is_complete
        foreign.follow(lambda service: hub.notify(Kind.INSTANCE, "", service))

    @property
    def history(self) -> str:
        """See `WatchHub.history`."""
        return self._hub.history

    async def watch(
        self, selector: Selector, after_revision: int | None, history: str = ""
    ) -> AsyncGenerator[ServiceEvent, None]:
        """See `WatchHub.watch`; the selector names a service."""
        service, told, synced = selector.service or "", 0, False
        # None: the watcher may hold foreign ones of an earlier stream.
        sent: dict[str, Instance] | None = {} if after_revision is None else None
        async with aclosing(self._hub.watch(selector, after_revision, history)) as events:
            async for event in events:
                match event:
                    case Synced(revision):
                        told, synced = revision, True
                    case Progress(revision):
                        told = revision
                    case Changed(change, completes):
                        told = change.revision if completes else told
                        if sent is not None:
                            sent.pop(change.ref.key, None)
                if isinstance(event, Synced):
                    if self._is_complete() and (sent is None or self._visible(service)):
                        sent = dict(self._visible(service))
                        yield ForeignSnapshot(tuple(sent.values()))
                    yield event
                    continue
                if not isinstance(event, Notified):
                    yield event
                if not synced or (isinstance(event, Changed) and not event.completes):
                    continue
                if sent is None:
                    if self._is_complete():
                        sent = dict(self._visible(service))
                        yield ForeignSnapshot(tuple(sent.values()))
                    continue
                while (news := next(self._news(service, sent, told), None)) is not None:
                    if news.is_gone:
                        del sent[news.instance.instance_id]
                    else:
                        sent[news.instance.instance_id] = news.instance
                    yield news

    def _news(self, service: str, sent: Mapping[str, Instance], told: int) -> Iterator[ForeignChanged]:
        """What the watcher has not been sent. It is looked for anew after each: things change while one is sent."""
        shown = self._foreign.of(service)
        for name, instance in shown.items():
            if sent.get(name) != instance and not self._is_registered(service, name):
                yield ForeignChanged(told, instance, sent.get(name))
        for name, instance in sent.items():
            # One that is hidden by a registration is replaced by that.
            if name not in shown:
                yield ForeignChanged(told, instance, instance, is_gone=True)

    def _visible(self, service: str) -> Mapping[str, Instance]:
        shown = self._foreign.of(service)
        return {name: instance for name, instance in shown.items() if not self._is_registered(service, name)}
