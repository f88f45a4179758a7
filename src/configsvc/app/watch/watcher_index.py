"""Which watchers a record concerns, without asking each of them."""

from collections.abc import Iterable, Iterator, Mapping

from configsvc.app.watch.selector import Selector
from configsvc.app.watch.watcher import Watcher
from configsvc.domain.records import Kind, Ref

# A dictionary is a set in the order of arrival.
Watchers = dict[Watcher, None]
Place = tuple[Kind, str, str | None]


class WatcherIndex:
    """All watchers, by the keys that they watch, or by the prefix that they watch: a change costs those that it concerns."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[Kind, str, str | None, str], Watchers] = {}
        self._by_prefix: dict[Place, dict[str, Watchers]] = {}

    def add(self, watcher: Watcher) -> None:
        """From now on the watcher is found."""
        selector = watcher.selector
        place = _place(selector)
        if selector.keys is None:
            self._by_prefix.setdefault(place, {}).setdefault(selector.prefix, {})[watcher] = None
            return
        for key in _selected_keys(selector):
            self._by_key.setdefault((*place, key), {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """The watcher was added, and is not found any more."""
        selector = watcher.selector
        place = _place(selector)
        if selector.keys is None:
            prefixes = self._by_prefix[place]
            del prefixes[selector.prefix][watcher]
            if not prefixes[selector.prefix]:
                del prefixes[selector.prefix]
            if not prefixes:
                del self._by_prefix[place]
            return
        for key in _selected_keys(selector):
            watchers = self._by_key[(*place, key)]
            del watchers[watcher]
            if not watchers:
                del self._by_key[(*place, key)]

    def of_record(self, ref: Ref) -> Iterator[Watcher]:
        """The watchers whose selector matches a record."""
        kind, environment, service, key = ref.kind, ref.environment, ref.service, ref.key
        for selected_service in (None, service):
            if (watchers := self._by_key.get((kind, environment, selected_service, key))) is not None:
                yield from watchers
            if (prefixes := self._by_prefix.get((kind, environment, selected_service))) is not None:
                for prefix in _prefixes_of(key, prefixes):
                    yield from prefixes[prefix]

    def of_service(self, kind: Kind, environment: str, service: str) -> Iterator[Watcher]:
        """The watchers of all records of a service."""
        for watchers in self._by_prefix.get((kind, environment, service), {}).values():
            yield from watchers


def _prefixes_of(key: str, prefixes: Mapping[str, Watchers]) -> Iterator[str]:
    """Those prefixes that the key has; not in more steps than the key has characters."""
    if len(prefixes) <= len(key):
        return (prefix for prefix in prefixes if key.startswith(prefix))
    return (key[:length] for length in range(len(key) + 1) if key[:length] in prefixes)


def _place(selector: Selector) -> Place:
    return selector.kind, selector.environment, selector.service


def _selected_keys(selector: Selector) -> Iterable[str]:
    return (key for key in selector.keys or () if key.startswith(selector.prefix))
