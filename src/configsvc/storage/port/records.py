"""Current records, and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from configsvc.domain.records import Commit, Kind, Record, Ref, View, Write

# Default bound of one read: what the largest answer can hold, and one item more.
READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Live records of one kind in one environment, in the order of (key, service).

    - `limit`: at most so many records; above 0.
    - `services`, `keys`: only these; None: all.
    - `prefix`: only keys that start with it.
    - `after`: only records after this (key, service).
    - `max_bytes`: stop once the bodies read so far have so many bytes (or characters), but return all records of the
      last key; None: no bound.
    """

    kind: Kind
    environment: str
    limit: int
    services: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None
    prefix: str = ""
    after: tuple[str, str] | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records at one revision of a history. `more`: `limit` or `max_bytes` cut the list."""

    revision: int
    records: tuple[Record, ...]
    more: bool
    history: str = ""


class Reader(Protocol):
    """Reads current records."""

    async def get(self, refs: Sequence[Ref]) -> View:
        """The live records among `refs`."""
        ...

    async def page(self, query: RecordQuery) -> RecordPage:
        """One page of live records."""
        ...


class Writer(Protocol):
    """The only way to change a record."""

    async def write(self, write: Write) -> Commit:
        """Applies a write, and returns its commit when that is durable.

        Concurrent writes may share a transaction; each has its own outcome.

        `decide` may ask its view for records that `write.reads` does not name. They are loaded under the same lock, and
        `decide` runs again, so it may run several times. The view always shows the state after the writes before it,
        also those of the same transaction. A decision may ask dozens of times; one that asks for ever fails.

        Raises:
            ServiceError: the error that `decide` raised; the write had no effect.
            FailedPrecondition: the request id was used for other content (reason `REQUEST_ID_REUSED`).
            InvalidInput: a resource would be too large for an answer (reason `RESOURCE_TOO_LARGE`, domain/sizes.py).
            Unavailable: the database can't be used, or the log diverged (reason `LOG_DIVERGED`).
        """
        ...
