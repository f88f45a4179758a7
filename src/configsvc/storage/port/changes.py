"""The change log: searched, read in order, resumed, and given a new history."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint, HistoryOrigin, LogState
from configsvc.domain.records import Change, Kind, Ref
from configsvc.storage.port.records import READ_BYTES

# Default bound of what one search examines: about a millisecond of the database's time.
EXAMINED_CHANGES = 2_000


@dataclass(frozen=True, slots=True)
class ChangeQuery:
    """Changes, newest first: by descending (revision, ordinal). All filters that are not None must match.

    - `reason` matches reasons that contain it.
    - `from_time` and `until_revision` are inclusive; `until_time` and `after_revision` are exclusive.
    - `before`: only changes older than this (revision, ordinal).
    - `max_bytes`: stop once the bodies read so far have so many bytes (or characters); None: no bound.
    - `max_examined`: stop after so many candidates, and return those of them that match. Candidates are the changes of the
      record if all four of its names are given, else of the actor, else of the environment, else all.
    """

    limit: int
    kind: Kind | None = None
    environment: str | None = None
    service: str | None = None
    key: str | None = None
    actor: str | None = None
    reason: str | None = None
    from_time: datetime | None = None
    until_time: datetime | None = None
    after_revision: int | None = None
    until_revision: int | None = None
    before: tuple[int, int] | None = None
    max_bytes: int | None = READ_BYTES
    max_examined: int = EXAMINED_CHANGES


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes, read at one revision of a history. `more`: `limit`, `max_bytes` or `max_examined` cut the list.

    Changes up to revision `compacted` are gone. `examined`: if `max_examined` cut the list, the (revision, ordinal) of the
    last change that was examined, `before` of the next page; else the next page begins after the last change.
    """

    revision: int
    changes: tuple[Change, ...]
    more: bool
    compacted: int = 0
    history: str = ""
    examined: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Versions of one record, live or removed. Versions 1 to `newest` were written; the log still has those from `oldest`.

    If all of its changes were compacted away, `oldest` is `newest + 1`.
    """

    oldest: int
    newest: int


@dataclass(frozen=True, slots=True)
class LogPage:
    """The changes after a point in the log, and whether the log still contains that point.

    `stored_digest` is the log's digest at that revision; empty if it has none.
    """

    state: LogState
    stored_digest: str
    changes: tuple[Change, ...]

    def continues(self, seen: Checkpoint) -> bool:
        """Whether the log continues one in which `seen`, the point of the call, was seen."""
        return self.state.continues(seen, self.stored_digest)


class ChangeHistory(Protocol):
    """Finds changes."""

    async def version(self, ref: Ref, version: int) -> Change | None:
        """The change that made this version; None if it was never made, or was compacted away."""
        ...

    async def versions(self, ref: Ref) -> VersionRange | None:
        """The versions that exist; None if the record was never written."""
        ...

    async def search(self, query: ChangeQuery) -> ChangePage:
        """One page of changes."""
        ...


class Log(Protocol):
    """Reads the change log in order."""

    async def state(self) -> LogState:
        """The newest and the compacted revision."""
        ...

    async def read(self, after: int, limit: int, max_bytes: int | None = READ_BYTES) -> Sequence[Change]:
        """The changes after a revision, oldest first. An empty answer means that there are no more.

        Stops after `limit` changes, or about `max_bytes` bytes of bodies (None: no bound), but never inside a revision
        and never before the first one is complete. So the answer may be longer than `limit`.

        Raises:
            RevisionOutOfRange: `after` is below the compacted revision, or above the newest.
        """
        ...


class ResumableLog(Protocol):
    """Reads the log from a point that was seen before, and detects that the log is now another one."""

    async def resume(self, seen: Checkpoint, limit: int, max_bytes: int | None = READ_BYTES) -> LogPage:
        """The changes after a point, bounded as in `Log.read`. Use them only if the page `continues(seen)`.

        It is no error if the log has diverged, or was compacted beyond the point: the page tells.
        """
        ...

    async def new_history_if_diverged(self, seen: Checkpoint, reason: str) -> LogState:
        """If the log does not continue `seen`, gives it a new history, `LEAP_REVISIONS` above both.

        Decided under the write lock: of several callers one makes the history, and the others find it.
        """
        ...


class HistoryAdmin(Protocol):
    """What an operator does with the log's history."""

    async def new_history(self, reason: str, leap: int = LEAP_REVISIONS) -> LogState:
        """Gives the log a new history, which begins `leap` above its head."""
        ...

    async def history_origin(self) -> HistoryOrigin:
        """When and why the log got its history."""
        ...
