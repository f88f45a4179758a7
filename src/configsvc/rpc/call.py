"""What a call says of itself in metadata, and what an answer says in its own.

A unary answer says it at its end, in one flight with its message: headers sent ahead would be a moment in which a worker
that dies can't be replaced by another one any more, since the answer has begun. So gRPC callers find it in the trailing
metadata. For REST it lies in the status (`in_status`), and the gateway makes headers of it; `x-http-status` is there the
status of the answer.
"""

import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

from configsvc.clock import Clock
from configsvc.domain.records import Author
from configsvc.rpc.context import CallContext

# Peers refuse more than 8 KiB of headers. Percent-encoded, a long key in a script of four bytes a character is over that,
# where the settings allow such keys: then the answer goes without its location, rather than not at all.
LOCATION_CHARACTERS = 6_500

# The values that gRPC's metadata takes, but for spaces: `in_status` parts by them.
_TELLABLE = re.compile(r"[!-~]+").fullmatch

# What the call that runs has to say with its answer.
ANSWER: ContextVar[list[tuple[str, str]]] = ContextVar("answer")


def metadata_of(context: CallContext) -> dict[str, str]:
    """The call's text metadata; of a name that comes twice the last."""
    return {str(k): v for k, v in context.invocation_metadata() or () if isinstance(v, str)}


def values_of(context: CallContext, name: str) -> list[str | bytes]:
    """Every value of one name; bytes if a value is not text."""
    return [value for key, value in context.invocation_metadata() or () if key == name]


def author(context: CallContext, request: Any, clock: Clock) -> Author:
    """Who writes: the `x-actor` metadata until there is sign-in, else `anonymous`."""
    actor = metadata_of(context).get("x-actor") or "anonymous"
    return Author(actor, request.reason, request.request_id, clock.now())


def etag_seen(context: CallContext, etag: str) -> bool:
    """Whether the caller of a read has this state already (`If-None-Match`). What is no etag is none of ours."""
    given = ",".join(str(value) for value in values_of(context, "if-none-match"))
    return any(_unquoted(part) in (etag, "*") for part in given.split(",") if part.strip())


def history_meant(context: CallContext, request: Any = None) -> str:
    """The history of the log that the caller's revisions are of: the request's, else `x-history`; empty: not said."""
    said = getattr(request, "history", "") or metadata_of(context).get("x-history", "")
    return said.strip()


def request_id(context: CallContext) -> str:
    """The caller's `x-request-id`, or a new one where it has none that an answer's metadata could carry."""
    given = metadata_of(context).get("x-request-id", "")[:128]
    return given if given and _TELLABLE(given) else uuid.uuid4().hex


def is_rest(context: CallContext) -> bool:
    """Whether the gateway made this call of a REST request."""
    return metadata_of(context).get("x-configsvc-rest") == "1"


def in_status(metadata: Iterable[tuple[str, str]]) -> str:
    """Metadata as the message of an OK status, the one text of a call's end that Envoy's transcoder hands on.

    Its values have no spaces; `^` stands for `%`, which gRPC would encode once more.
    """
    return " ".join(f"{name}={value.replace('%', '^')}" for name, value in metadata)


def tell(*metadata: tuple[str, str]) -> None:
    """Adds to the answer's metadata. The interceptor sends it, once, with its own."""
    ANSWER.get().extend(metadata)


def tell_resource(etag: str, *, status: int = 0, location: str = "") -> None:
    """Adds what belongs to one resource."""
    tell(("etag", f'"{etag}"'))
    if location and len(location) <= LOCATION_CHARACTERS:
        tell(("location", location))
    if status:
        tell(("x-http-status", str(status)))


def path(*segments: str, **query: str) -> str:
    """A REST path of this service. Slashes inside a segment stay, as the key's path is written."""
    text = "/api/v1/" + "/".join(quote(segment, safe="/") for segment in segments)
    given = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)
    return f"{text}?{given}" if given else text


def _unquoted(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')
