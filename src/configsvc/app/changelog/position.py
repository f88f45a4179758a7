"""How far this replica has applied the change log, for the code that only asks for that."""

from datetime import datetime
from typing import Protocol


class LogPosition(Protocol):
    """The place in the log up to which this replica has applied it."""

    @property
    def applied(self) -> int:
        """The revision up to which every follower has taken in everything; 0 before the log was read."""
        ...

    @property
    def history(self) -> str:
        """The id of the log's history; before the log was read, the one in the shared cache, or empty."""
        ...

    @property
    def since(self) -> int:
        """The revision at which that history began."""
        ...

    @property
    def stale_since(self) -> datetime | None:
        """Set while the log can't be read: when it was last read, or the start of this replica."""
        ...


class AppliedLog(LogPosition, Protocol):
    """The same, for readers that must not take a late replica's absence for "does not exist"."""

    async def catch_up(self) -> bool:
        """Applies what any replica committed before the call; returns whether there was anything.

        Never raises if the log can't be read: it returns False then, and `stale_since` is set.
        """
        ...
