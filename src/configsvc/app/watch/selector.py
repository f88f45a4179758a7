"""What a watch is about."""

from dataclasses import dataclass

from configsvc.domain.records import Kind, Ref
from configsvc.storage.port import READ_BYTES, RecordQuery

# The records of one page of a snapshot. A snapshot with fewer records is one consistent read.
SNAPSHOT_RECORDS = 500


@dataclass(frozen=True, slots=True)
class Selector:
    """The records of a kind in an environment; of `service` and of `keys` if they are not None; with this key prefix."""

    kind: Kind
    environment: str
    service: str | None = None
    keys: frozenset[str] | None = None
    prefix: str = ""

    def matches(self, ref: Ref) -> bool:
        """Whether the watch is about this record."""
        return (
            ref.kind == self.kind
            and ref.environment == self.environment
            and (self.service is None or ref.service == self.service)
            and (self.keys is None or ref.key in self.keys)
            and ref.key.startswith(self.prefix)
        )

    def query(self, after: tuple[str, str] | None) -> RecordQuery:
        """The query for the next page of a snapshot; `after`: (key, service) of the last record so far."""
        services = None if self.service is None else (self.service,)
        keys = None if self.keys is None else tuple(sorted(self.keys))
        return RecordQuery(
            self.kind, self.environment, SNAPSHOT_RECORDS, services, keys, self.prefix, after, max_bytes=READ_BYTES
        )
