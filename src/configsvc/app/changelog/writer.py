"""Writes that this process's followers of the log have seen when `write` returns."""

import contextlib

from configsvc.app.changelog.tail import LogTail
from configsvc.domain.records import Commit, Write
from configsvc.errors import Unavailable
from configsvc.storage.port import Writer

# A commit is applied in the same turn of the loop, or as soon as the commits before it are. Where even that takes this
# long, the log can't be read; the write stands, and the caller has its revision to ask for.
APPLY_SECONDS = 2.0


class AppliedWriter:
    """A writer whose commits go to the log's tail, so that a replica reads what it has just written."""

    def __init__(self, writer: Writer, tail: LogTail) -> None:
        self._writer = writer
        self._tail = tail

    async def write(self, write: Write) -> Commit:
        """Writes, and waits until this replica has applied it. The same law as the port's."""
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
