"""What this replica has applied of the log: the revision, the history, and the followers that took it in."""

import asyncio
from collections.abc import Sequence

from configsvc.app.changelog.follower import LogFollowers
from configsvc.app.changelog.lineage.shared_checkpoint import SharedCheckpoint
from configsvc.app.changelog.reading.early_commits import EarlyCommits
from configsvc.app.changelog.reading.revision_waiters import RevisionWaiters
from configsvc.clock import Clock
from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import Change, Commit


class LogApplier:
    """Applies changes to the followers, in order, and advances `applied` after them.

    Nothing here waits: each method runs between two awaits.
    """

    def __init__(self, clock: Clock, shared_checkpoint: SharedCheckpoint) -> None:
        self.applied = 0
        self.history = ""
        self.since = 0
        self._digest = ""
        self._shared_checkpoint = shared_checkpoint
        self._early = EarlyCommits()
        self.synced = asyncio.Event()
        self.followers = LogFollowers()
        self.waiters = RevisionWaiters(clock)

    @property
    def checkpoint(self) -> Checkpoint:
        """The place up to which everything is applied; without a history before the log was read."""
        return Checkpoint(self.history if self.synced.is_set() else "", self.applied, self._digest)

    def apply(self, changes: Sequence[Change]) -> None:
        """Applies the next changes, and the early commits that follow them without a gap."""
        next_changes: Sequence[Change] | None = changes
        while next_changes is not None:
            self.followers.apply(next_changes)
            self._digest = next_changes[-1].digest
            self._advance(next_changes[-1].revision)
            next_changes = self._early.pop(self.applied + 1)

    def apply_commit(self, commit: Commit) -> bool:
        """Applies a commit of this replica if it is the next revision; returns whether it was.

        A commit of a later revision is held until the revisions before it are applied.
        """
        if commit.revision == self.applied + 1:
            self.apply(commit.changes)
            return True
        if commit.revision > self.applied:
            self._early.put(commit)
        return False

    def reset_to(self, state: LogState) -> None:
        """Goes to the head of the log, and resets the followers: they can't be told what happened before it."""
        if state.history != self.history:
            self._early.clear()
        self.history, self.since = state.history, state.since
        self.synced.set()
        self.followers.reset(state.head)
        self._digest = state.digest
        self._advance(max(state.head, self.applied))

    def _advance(self, revision: int) -> None:
        self.applied = revision
        self._shared_checkpoint.advance(self.checkpoint)
        self._early.discard_through(revision)
        self.waiters.advance(revision)
