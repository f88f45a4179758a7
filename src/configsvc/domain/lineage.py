"""The identity of the change log, and how to detect that the log is not the one that was seen before.

A *history* is a random id. The database gets one when it is created. It gets another one if its log does not continue
what was seen of it: an older backup was restored, or a failover went to a server that lacked acknowledged writes. What
was derived from the log belongs to its history: etags, page tokens, resume points, cached entries.

Nobody may have announced a restore, and the same history then has two continuations. There are two signs of it. The log
ends before a revision that was seen in it. Or the log has grown since, and has other content at that revision. To detect
the latter, each change has a digest of itself and everything before it, h(n) = H(h(n-1), row n). Two logs with the same
digest are equal up to there (Haber and Stornetta, "How to time-stamp a digital document", 1991).
"""

import hashlib
import json
import secrets
from base64 import b32encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from configsvc.errors import RevisionOutOfRange

# A new history begins this far above the highest revision that is known. Other systems may have seen higher ones, and
# those that compare revisions without histories (`min_revision`, Kafka consumers) must see them rise. A bigint has room
# for 10^13 leaps.
LEAP_REVISIONS = 1_000_000
# A bigint has room for a million of these.
LARGEST_LEAP = 10**12

# The reason of a database's first history.
FIRST_HISTORY_REASON = "made with the database, or when it first met a release that knows of histories"

_HISTORY_BYTES, _DIGEST_BYTES = 16, 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a log was seen: `revision` of `history`, and the log's digest there (empty if it is not known).

    Without a history, nothing was seen.
    """

    history: str
    revision: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LogState:
    """`head` is the newest revision, 0 before the first write. Changes up to `compacted` were compacted away.

    `history` began at revision `since`; earlier changes belong to earlier histories too. `digest` covers the whole log;
    it is empty if only an older release has written.
    """

    head: int
    compacted: int
    history: str = ""
    since: int = 0
    digest: str = ""

    @property
    def end(self) -> Checkpoint:
        """The checkpoint at the newest revision."""
        return Checkpoint(self.history, self.head, self.digest)

    def with_new_history(self, above: int = 0, leap: int = LEAP_REVISIONS) -> "LogState":
        """The state with a new history, which begins `leap` above the head, and above a revision `above` that was seen."""
        since = max(self.head, above) + leap
        return LogState(since, self.compacted, new_history(), since, self.digest)

    def continues(self, seen: Checkpoint, stored_digest: str) -> bool:
        """Whether this log continues the one in which `seen` was seen.

        `stored_digest` is this log's digest at that revision; empty if it has none, or it was compacted away. If this log
        has another history that began above `seen.revision`, that history was started with `seen` in mind.
        """
        if not seen.history:
            return True
        if self.history != seen.history:
            return self.since > seen.revision
        is_different = bool(seen.digest and stored_digest and seen.digest != stored_digest)
        return self.head >= seen.revision and not is_different


def new_history() -> str:
    """A history id: 26 letters and digits."""
    return b32encode(secrets.token_bytes(_HISTORY_BYTES)).decode().rstrip("=").lower()


def next_digest(before: str, row: Sequence[Any], text: str | None) -> str:
    """The digest of the log up to a row, given the digest up to the row before. `text` is the row's longest part."""
    digest = hashlib.blake2b(json.dumps((before, text is None, *row)).encode(), digest_size=_DIGEST_BYTES)
    if text is not None:
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class HistoryOrigin:
    """Why a history was started (`reason`, a text for operators), and when (`made_at`, None if it is not known now).

    Its revisions are those after `since`.
    """

    history: str
    since: int
    reason: str
    made_at: datetime | None


def history_changed(current: str, since: int, head: int) -> RevisionOutOfRange:
    """The error for a request that refers to another history than the current one."""
    return RevisionOutOfRange(
        f"this is of another history of the change log, which has the history {current} since revision {since}: the"
        " database was restored, or lost acknowledged writes; read again from the start",
        "HISTORY_CHANGED",
        {"history": current, "oldest_revision": str(since), "current_revision": str(head)},
    )
