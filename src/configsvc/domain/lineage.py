"""The identity of the change log, and how one tells that it is not the log that it was.

A *history* is a random id. The database gets one when it is made, and another one whenever its log is no continuation
of what somebody has seen of it: an older copy was restored, or a server took over that lacked acknowledged writes. With
the history goes whatever was derived from a log: etags, page tokens, resume points, copies in caches.

A restore may go unsaid, and then the old history would stand for two futures. Two things show it. The log ends before a
revision that was seen in it. Or it has gone on since, and says something else at that revision: each change has a digest
of all before it and itself, h(n) = H(h(n-1), row n), so that two logs which agree in a digest agree in everything up to
there (Haber and Stornetta, "How to time-stamp a digital document", 1991).
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

# A new history begins this far above every revision that is known to have been given out, since others may have seen
# more: whoever compares revisions alone (`min_revision`, Kafka consumers) sees them rise. A bigint has room for 10^13.
LEAP_REVISIONS = 1_000_000
# A million of these fit into a bigint.
LARGEST_LEAP = 10**12

# Why a database has the first history that it has.
MADE = "made with the database, or when it first met a release that knows of histories"

_HISTORY_BYTES, _DIGEST_BYTES = 16, 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in a log: `revision` of `history`, with the log's digest there (empty: not known).

    Without a history it is nowhere: nothing was seen.
    """

    history: str
    revision: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LogState:
    """`head` is the newest revision, 0 before the first write. Changes up to `compacted` are gone.

    `history` began at revision `since`: what came before is what it has in common with earlier ones. `digest` is that of
    the whole log; empty where an older release alone has written.
    """

    head: int
    compacted: int
    history: str = ""
    since: int = 0
    digest: str = ""

    @property
    def end(self) -> Checkpoint:
        """The place of the newest revision."""
        return Checkpoint(self.history, self.head, self.digest)

    def with_new_history(self, above: int = 0, leap: int = LEAP_REVISIONS) -> "LogState":
        """This log under a new history, which begins `leap` above its head, and above a revision that was seen."""
        since = max(self.head, above) + leap
        return LogState(since, self.compacted, new_history(), since, self.digest)

    def continues(self, seen: Checkpoint, stored_digest: str) -> bool:
        """Whether this log is a continuation of one in which `seen` was seen.

        `stored_digest` is the digest that this log has at that revision; empty: it has none, or it was compacted away.
        A later history is one that began above: it was made by somebody who knew.
        """
        if not seen.history:
            return True
        if self.history != seen.history:
            return self.since > seen.revision
        is_other = bool(seen.digest and stored_digest and seen.digest != stored_digest)
        return self.head >= seen.revision and not is_other


def new_history() -> str:
    """A history id: 26 letters and digits."""
    return b32encode(secrets.token_bytes(_HISTORY_BYTES)).decode().rstrip("=").lower()


def next_digest(before: str, row: Sequence[Any], text: str | None) -> str:
    """The digest of the log up to a row, from that up to the row before. `text` is the row's longest part."""
    found = hashlib.blake2b(json.dumps((before, text is None, *row)).encode(), digest_size=_DIGEST_BYTES)
    if text is not None:
        found.update(text.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class HistoryOrigin:
    """Where a history comes from: `reason`, for people, and when. `since`: its first revision comes after this one.

    `made_at` None: that is not known now.
    """

    history: str
    since: int
    reason: str
    made_at: datetime | None


def history_changed(current: str, since: int, head: int) -> RevisionOutOfRange:
    """What was sent is of another history of the log than the one that it has now."""
    return RevisionOutOfRange(
        f"this is of another history of the change log, which has the history {current} since revision {since}: the"
        " database was restored, or lost acknowledged writes; read again from the start",
        "HISTORY_CHANGED",
        {"history": current, "oldest_revision": str(since), "current_revision": str(head)},
    )
