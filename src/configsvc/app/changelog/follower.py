"""What follows the change log in this process. `wiring.py` subscribes every follower to the tail, in one place."""

from collections.abc import Sequence
from typing import Protocol

from configsvc.domain.records import Change


class LogFollower(Protocol):
    """State that is derived from the log, and kept up to date by it.

    Both methods are called on the event loop, between two awaits, and must not block. See `LogTail.subscribe`.
    """

    def apply(self, changes: Sequence[Change]) -> None:
        """Takes in the next changes: whole revisions, in order, without a gap."""
        ...

    def reset(self, revision: int) -> None:
        """Drops what it holds: the log can't tell what happened up to `revision`.

        Whatever it loads from now on must be read at this revision or above.
        """
        ...
