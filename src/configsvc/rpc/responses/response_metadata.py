"""The metadata of an answer.

A unary answer carries its metadata at its end, together with its message. Headers that are sent ahead would begin the
answer, and if the worker dies then, another worker can't answer in its place. So gRPC callers find the metadata in the
trailers. For REST it is in the message of the status (`status_message`), and the gateway makes headers of it. There,
`x-http-status` is the HTTP status of the answer.
"""

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from urllib.parse import quote

# Peers refuse more than 8 KiB of headers. A long key in a script with four bytes a character exceeds that when it is
# percent-encoded. The settings may allow such keys; the answer then has no location.
LOCATION_CHARACTERS = 6_500

# The metadata that the current call has added so far. The interceptor sets it at the start of each call.
RESPONSE_METADATA: ContextVar[list[tuple[str, str]]] = ContextVar("response_metadata")


def status_message(metadata: Iterable[tuple[str, str]]) -> str:
    """The metadata as the message of an OK status, the only text of a call's end that Envoy's transcoder passes on.

    No value has a space. `^` stands for `%`, which gRPC would percent-encode a second time.
    """
    return " ".join(f"{name}={value.replace('%', '^')}" for name, value in metadata)


@lru_cache(1_024)
def status_headers(message: str) -> Sequence[tuple[str, str]]:
    """The metadata that `status_message` has made a message of."""
    pairs = (item.partition("=") for item in message.split())
    return tuple((name, value.replace("^", "%")) for name, _, value in pairs)


def add_metadata(*metadata: tuple[str, str]) -> None:
    """Adds to the metadata of the answer to the current call. The interceptor sends it, once, with its own."""
    RESPONSE_METADATA.get().extend(metadata)


def add_resource_metadata(etag: str, *, status: int = 0, location: str = "") -> None:
    """Adds a resource's etag, and the HTTP status and the location of the resource if they are given."""
    add_metadata(("etag", f'"{etag}"'))
    if location and len(location) <= LOCATION_CHARACTERS:
        add_metadata(("location", location))
    if status:
        add_metadata(("x-http-status", str(status)))


def rest_path(*segments: str, **query: str) -> str:
    """A REST path of this service. Slashes in a segment stay: paths have a key's slashes unencoded."""
    path = "/api/v1/" + "/".join(quote(segment, safe="/") for segment in segments)
    parameters = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)
    return f"{path}?{parameters}" if parameters else path
