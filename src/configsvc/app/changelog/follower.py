"""What follows the change log in this process. `wiring.py` subscribes every follower to the tail, in one place."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from configsvc.domain.records import Change

logger = logging.getLogger(__name__)


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


class LogFollowers:
    """All followers, in the order in which they subscribed. One that raises is reset, and does not harm the others."""

    def __init__(self) -> None:
        self._followers: list[LogFollower] = []

    def add(self, follower: LogFollower) -> Callable[[], None]:
        """Returns how to remove it; removing it twice is allowed."""
        self._followers.append(follower)

        def remove() -> None:
            if follower in self._followers:
                self._followers.remove(follower)

        return remove

    def apply(self, changes: Sequence[Change]) -> None:
        """Applies changes to every follower."""
        for follower in tuple(self._followers):
            try:
                follower.apply(changes)
            except Exception:
                logger.exception("a follower of the log failed on revision %d and is reset", changes[-1].revision)
                self._reset(follower, changes[-1].revision)

    def reset(self, revision: int) -> None:
        """Resets every follower."""
        for follower in tuple(self._followers):
            self._reset(follower, revision)

    def _reset(self, follower: LogFollower, revision: int) -> None:
        try:
            follower.reset(revision)
        except Exception:
            logger.exception("a follower of the log failed to reset at revision %d", revision)
