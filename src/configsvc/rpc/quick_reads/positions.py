"""Where in the log the answers of this replica are from, as answers say it."""

from configsvc.app.changelog.tail import LogTail
from configsvc.rpc.quick_reads.wire import varint
from configsvc.rpc.responses.response_metadata import status_message


class Position:
    """An applied revision of a history, as a number, as metadata, and as the message of a REST call's status."""

    __slots__ = ("encoded_revision", "history", "metadata", "rest", "revision")

    def __init__(self, revision: int, history: str) -> None:
        self.revision = revision
        self.history = history
        self.encoded_revision = varint(revision)
        self.metadata = (("x-revision", str(revision)), ("x-history", history))
        self.rest = status_message(self.metadata)


class Positions:
    """The position of the log's tail, made once for each revision."""

    def __init__(self, tail: LogTail) -> None:
        self._tail = tail
        self._position = Position(tail.applied, tail.history)

    def current(self) -> Position | None:
        """The position up to which everything is applied; None while answers may be stale."""
        tail, position = self._tail, self._position
        if tail.stale_since is not None:
            return None
        revision, history = tail.applied, tail.history
        if revision != position.revision or history != position.history:
            position = self._position = Position(revision, history)
        return position
