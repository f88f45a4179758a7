"""What a caller says in the metadata of a call."""

import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import count
from typing import Protocol

from configsvc.clock import Clock
from configsvc.domain.records import Author
from configsvc.rpc.context import CallContext, is_metadata_value

REQUEST_ID_CHARACTERS = 128

# A request id that this process makes: which process, and which call. A random one for each call would cost more.
_PROCESS = secrets.token_hex(8)
_CALLS = count(1)

# The metadata that `as_dict` has read last in this task, and what it was read as: a call asks several times.
_LAST_READ: ContextVar[tuple[object, Mapping[str, str]]] = ContextVar("last_read_metadata", default=(None, {}))


class WriteRequest(Protocol):
    """A request to write."""

    @property
    def reason(self) -> str: ...

    @property
    def request_id(self) -> str: ...


class WatchRequest(Protocol):
    """A request to watch. It may resume after a revision of its history."""

    @property
    def history(self) -> str: ...


def as_dict(context: CallContext) -> Mapping[str, str]:
    """The text metadata. If a name comes several times, the last value counts."""
    metadata = context.invocation_metadata() or ()
    last, found = _LAST_READ.get()
    # The same tuple has the same items. An engine that makes a new one each time has it read each time.
    if last is not metadata or not isinstance(metadata, tuple):
        found = {str(k): v for k, v in metadata if isinstance(v, str)}
        _LAST_READ.set((metadata, found))
    return found


def values(context: CallContext, name: str) -> list[str | bytes]:
    """All values of one name; a value that is not text is bytes."""
    return [value for key, value in context.invocation_metadata() or () if key == name]


def author(context: CallContext, request: WriteRequest, clock: Clock) -> Author:
    """The author of a write: the `x-actor` metadata, or `anonymous`, as long as the service has no sign-in."""
    actor = as_dict(context).get("x-actor") or "anonymous"
    return Author(actor, request.reason, request.request_id, clock.now())


def is_not_modified(context: CallContext, etag: str) -> bool:
    """Whether the caller of a read has this state already: `If-None-Match` names its etag, or is `*`.

    Text that is not an etag matches nothing; a read does not refuse it.
    """
    listed = ",".join(str(value) for value in values(context, "if-none-match"))
    return any(_unquoted(part) in (etag, "*") for part in listed.split(",") if part.strip())


def expected_history(context: CallContext, request: WatchRequest) -> str:
    """The history of the log that the caller's revisions belong to: the request's, or else `x-history`. Empty: any."""
    return (request.history or history(as_dict(context))).strip()


def history(metadata: Mapping[str, str]) -> str:
    """The history of the log that the caller expects, by `x-history`. Empty: any."""
    return metadata.get("x-history", "").strip()


def request_id(metadata: Mapping[str, str]) -> str:
    """The caller's `x-request-id`, or a new one if the caller sent none that a response's metadata can carry."""
    sent = metadata.get("x-request-id", "")[:REQUEST_ID_CHARACTERS]
    return sent if is_metadata_value(sent) else new_request_id()


def new_request_id() -> str:
    """A request id that no other call has, in this process or another."""
    return f"{_PROCESS}{next(_CALLS):016x}"


def is_rest(metadata: Mapping[str, str]) -> bool:
    """Whether the gateway made this call from a REST request."""
    return metadata.get("x-configsvc-rest") == "1"


def _unquoted(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')
