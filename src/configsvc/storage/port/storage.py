"""The whole port: every role of a database."""

from types import TracebackType
from typing import Protocol, Self

from configsvc.storage.port.changes import ChangeHistory, HistoryAdmin, Log, ResumableLog
from configsvc.storage.port.heartbeats import Heartbeats
from configsvc.storage.port.outbox import Outbox
from configsvc.storage.port.records import Reader, Writer
from configsvc.storage.port.retention import Compactor


class Storage(Reader, ChangeHistory, Log, ResumableLog, HistoryAdmin, Writer, Compactor, Outbox, Heartbeats, Protocol):
    """A database. Entering the context opens it and migrates its schema."""

    @property
    def name(self) -> str:
        """The kind of database, for people: `sqlite`, `postgresql`."""
        ...

    async def ping(self) -> None:
        """Returns if the database answers; raises `Unavailable` if it does not."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
