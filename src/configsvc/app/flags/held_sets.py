"""The flag sets in memory, within a bound of bytes."""

from collections.abc import Callable, Iterable

from configsvc_client.evaluation import FlagSet

from configsvc.domain.records import Record

DEFAULT_BYTES = 256 << 20
# A compiled flag takes 1.5 to 1.8 times the memory of its body (`Record.held_bytes`), measured with CPython 3.11.
COMPILED_FACTOR = 2
# What a set without flags takes, so that a caller that asks for many environments without flags is bounded too.
SET_BYTES = 1_000


class HeldSets:
    """Sets by environment, of about `max_bytes` in all. The newest one stays, even if it alone is larger.

    If there is no room, the set goes that was kept first, unless somebody has used it since this was last asked: that one
    is asked again after all others. (The second-chance algorithm; Tanenbaum, "Modern Operating Systems".)
    """

    def __init__(self, max_bytes: int, on_evicted: Callable[[str], None]) -> None:
        self._max_bytes = max_bytes
        self._on_evicted = on_evicted
        self._sets: dict[str, FlagSet] = {}
        self._bytes: dict[str, int] = {}
        self._used: set[str] = set()
        self.held_bytes = 0

    def get(self, environment: str) -> FlagSet | None:
        """The set of an environment."""
        return self._sets.get(environment)

    def use(self, environment: str) -> FlagSet | None:
        """The set of an environment, because a caller asks for it."""
        if (found := self._sets.get(environment)) is not None:
            self._used.add(environment)
        return found

    def is_held(self, flag_set: FlagSet) -> bool:
        """Whether this is the set of its environment."""
        return self._sets.get(flag_set.environment) is flag_set

    def keep(self, flag_set: FlagSet, body_bytes: int) -> None:
        """Takes a set. `body_bytes`: the memory that the bodies of its flags take."""
        self._remove(flag_set.environment)
        self._sets[flag_set.environment] = flag_set
        self._add_bytes(flag_set.environment, SET_BYTES + body_bytes * COMPILED_FACTOR)

    def replace(self, flag_set: FlagSet, body_bytes: int) -> None:
        """Takes the set in place of that of its environment; its bodies take `body_bytes` more."""
        self._sets[flag_set.environment] = flag_set
        self._add_bytes(flag_set.environment, body_bytes * COMPILED_FACTOR)

    def clear(self) -> None:
        """Forgets all sets."""
        self._sets.clear()
        self._bytes.clear()
        self._used.clear()
        self.held_bytes = 0

    def _add_bytes(self, environment: str, added: int) -> None:
        self._bytes[environment] = self._bytes.get(environment, 0) + added
        self.held_bytes += added
        while self.held_bytes > self._max_bytes and len(self._sets) > 1:
            self._evict_one(environment)

    def _evict_one(self, kept: str) -> None:
        while True:
            oldest = next(iter(self._sets))
            if oldest != kept and oldest not in self._used:
                break
            self._used.discard(oldest)
            self._sets[oldest] = self._sets.pop(oldest)
        self._remove(oldest)
        self._on_evicted(oldest)

    def _remove(self, environment: str) -> None:
        self._sets.pop(environment, None)
        self._used.discard(environment)
        self.held_bytes -= self._bytes.pop(environment, 0)


def bytes_of(records: Iterable[Record]) -> int:
    """The memory that the bodies of these flags take."""
    return sum(record.held_bytes for record in records)
