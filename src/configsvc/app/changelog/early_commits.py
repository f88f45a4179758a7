"""Own commits that came before those of earlier revisions: held until the log has caught up, as far as there is room.

Beyond that they are read from the log, like everyone's.
"""

from configsvc.domain.records import Change, Commit

# Commits held, and about what their bodies take in memory.
EARLY_COMMITS, EARLY_BYTES = 256, 16 << 20


class EarlyCommits:
    """Changes by revision."""

    def __init__(self) -> None:
        self._commits: dict[int, tuple[Change, ...]] = {}
        self._bytes = 0

    def keep(self, commit: Commit) -> None:
        """Holds a commit, if there is room."""
        size = _held_bytes(commit.changes)
        if commit.revision in self._commits or len(self._commits) >= EARLY_COMMITS or self._bytes + size > EARLY_BYTES:
            return
        self._commits[commit.revision] = commit.changes
        self._bytes += size

    def take(self, revision: int) -> tuple[Change, ...] | None:
        """The commit of this revision, if it is held; it is not any more."""
        changes = self._commits.pop(revision, None)
        if changes is not None:
            self._bytes -= _held_bytes(changes)
        return changes

    def forget_through(self, revision: int) -> None:
        """Those up to this revision are known now."""
        for known in [early for early in self._commits if early <= revision]:
            self.take(known)

    def clear(self) -> None:
        """Forgets all."""
        self._commits.clear()
        self._bytes = 0


def _held_bytes(changes: tuple[Change, ...]) -> int:
    return sum(change.held_bytes for change in changes)
