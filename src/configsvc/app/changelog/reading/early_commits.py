"""Own commits that arrive before the commits of earlier revisions: held until the log has caught up, if there is room.

Those that don't fit are read from the log later, like the commits of other replicas.
"""

from configsvc.domain.records import Change, Commit

# At most this many commits are held, and about this much memory for their bodies.
MAX_COMMITS, MAX_BYTES = 256, 16 << 20


class EarlyCommits:
    """The changes of each commit, by revision."""

    def __init__(self) -> None:
        self._commits: dict[int, tuple[Change, ...]] = {}
        self._bytes = 0

    def put(self, commit: Commit) -> None:
        """Holds a commit, if there is room."""
        size = _held_bytes(commit.changes)
        if commit.revision in self._commits or len(self._commits) >= MAX_COMMITS or self._bytes + size > MAX_BYTES:
            return
        self._commits[commit.revision] = commit.changes
        self._bytes += size

    def pop(self, revision: int) -> tuple[Change, ...] | None:
        """Removes the commit of this revision and returns its changes; None if it is not held."""
        changes = self._commits.pop(revision, None)
        if changes is not None:
            self._bytes -= _held_bytes(changes)
        return changes

    def discard_through(self, revision: int) -> None:
        """Removes the commits up to this revision: they have been applied."""
        for applied in [early for early in self._commits if early <= revision]:
            self.pop(applied)

    def clear(self) -> None:
        """Removes all commits."""
        self._commits.clear()
        self._bytes = 0


def _held_bytes(changes: tuple[Change, ...]) -> int:
    return sum(change.held_bytes for change in changes)
