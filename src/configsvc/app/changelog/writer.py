"""The writer that the use cases get: a replica reads what it has just written."""

import contextlib

from configsvc.app.changelog.tail import LogTail
from configsvc.domain.records import Commit, Write
from configsvc.errors import Unavailable
from configsvc.storage.port import Writer

# A commit is applied at once, or as soon as the commits before it are. If even that takes this long, the log can't be
# read. The write stands, and the caller can ask for its revision.
APPLY_SECONDS = 2.0


class AppliedWriter:
    """A writer whose commits are applied by this process's followers of the log when `write` returns."""

    def __init__(self, writer: Writer, tail: LogTail) -> None:
        self._writer = writer
        self._tail = tail

    async def write(self, write: Write) -> Commit:
        """Writes, and waits until this replica has applied the commit. Raises what the storage's `write` raises."""
        try:
            commit = await self._writer.write(write)
        except Unavailable as error:
            if error.reason == "LOG_DIVERGED":
                self._tail.request_read()
            raise
        self._tail.on_commit(commit)
        if self._tail.applied < commit.revision or self._tail.history != commit.history:
            with contextlib.suppress(Unavailable):
                await self._tail.wait_for(commit.revision, APPLY_SECONDS)
        return commit
